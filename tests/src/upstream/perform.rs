//! Puts an answer on the wire, properly or as the play wants it.
//!
//! Invariant: says afterwards what becomes of the connection; never closes it by itself.

use super::answer::Answer;
use super::answer::Frame;
use super::play::Fault;
use super::play::Play;
use super::wire::Gone;
use super::wire::Wire;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// An endless answer's pieces leave one by one at first, then as many at once as fit this.
const ENDLESS_WRITE_BYTES: usize = 8 << 10;
const ENDLESS_ONE_BY_ONE: usize = 100;

/// Answers that are cut break off after so many pieces.
const CUT_AFTER_PIECES: usize = 6;

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    GoOn,
    Close,
    Reset,
}

pub(super) async fn perform(
    wire: &mut Wire,
    answer: Answer,
    play: &Play,
    steps: &Arc<Semaphore>,
    no_body: bool,
) -> Result<After, Gone> {
    if play.continue_first {
        wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    match play.fault {
        Some(fault) => spoil(wire, answer, fault).await,
        None => give(wire, answer, play, steps, no_body).await,
    }
}

async fn give(
    wire: &mut Wire,
    answer: Answer,
    play: &Play,
    steps: &Arc<Semaphore>,
    no_body: bool,
) -> Result<After, Gone> {
    let mut answer = answer;
    if play.trailers {
        answer.frame = Frame::Chunked;
        answer = answer.with("trailer", "x-kit-trailer");
    }
    if play.close {
        answer = answer.with("connection", "close");
    }
    if let Some(piece_bytes) = play.endless {
        answer.frame = Frame::Chunked;
        wire.send(&head(&answer, None)).await?;
        return endless(wire, piece_bytes).await;
    }
    if let Some((piece_bytes, count)) = play.pieces {
        answer.frame = Frame::Chunked;
        wire.send(&head(&answer, None)).await?;
        for number in 0..count {
            let mut piece = format!("{number:09}").into_bytes();
            piece.resize(piece_bytes, b'x');
            wire.send(&chunk(&piece)).await?;
        }
        wire.send(&end(&answer, false)).await?;
        return Ok(After::GoOn);
    }
    let after = if play.close { After::Close } else { After::GoOn };
    let head = head(&answer, None);
    if let Some(pause) = play.slow {
        let mut bytes = head;
        if !no_body {
            bytes.extend(framed(&answer).concat());
            bytes.extend(end(&answer, play.trailers));
        }
        for byte in bytes {
            wire.send(&[byte]).await?;
            wire.pause(pause).await?;
        }
        return Ok(after);
    }
    let end = end(&answer, play.trailers);
    let mut pieces = framed(&answer);
    if no_body {
        wire.send(&head).await?;
        return Ok(after);
    }
    if !play.step && play.gap.is_none() && answer.body_bytes() < 32 << 10 {
        // One write, as a server with the whole answer at hand does.
        wire.send(&[head, pieces.concat(), end].concat()).await?;
        return Ok(after);
    }
    wire.send(&head).await?;
    if let Some(last) = pieces.last_mut() {
        last.extend(end);
    }
    for (place, piece) in pieces.iter().enumerate() {
        if play.step {
            // The semaphore is never closed.
            if let Ok(permit) = wire.wait(steps.acquire()).await? {
                permit.forget();
            }
        }
        if let Some(gap) = play.gap.filter(|_| place > 0) {
            wire.pause(gap).await?;
        }
        wire.send(piece).await?;
    }
    Ok(after)
}

async fn endless(wire: &mut Wire, piece_bytes: usize) -> Result<After, Gone> {
    let piece = chunk(&vec![b'x'; piece_bytes]);
    for _ in 0..ENDLESS_ONE_BY_ONE {
        wire.send(&piece).await?;
    }
    let pieces = piece.repeat((ENDLESS_WRITE_BYTES / piece.len()).max(1));
    loop {
        wire.send(&pieces).await?;
    }
}

async fn spoil(wire: &mut Wire, answer: Answer, fault: Fault) -> Result<After, Gone> {
    let (half, next) = halves(&answer);
    let natural = head(&answer, None);
    match fault {
        Fault::CutHead => {
            wire.send(&natural[..natural.len() / 2]).await?;
            Ok(After::Close)
        }
        Fault::CutBody => {
            let length = answer.body_bytes().to_string();
            wire.send(&head(&answer, Some(&[&length]))).await?;
            wire.send(&half).await?;
            Ok(After::Close)
        }
        Fault::CutChunk => {
            let chunked = Answer { frame: Frame::Chunked, ..answer };
            wire.send(&head(&chunked, None)).await?;
            wire.send(&chunk(&half)).await?;
            let cut = chunk(&next);
            wire.send(&cut[..cut.len() - next.len() / 2 - 2]).await?;
            Ok(After::Close)
        }
        Fault::StallHead => Err(wire.until_gone().await),
        Fault::StallBody => {
            wire.send(&natural).await?;
            match answer.frame {
                Frame::Length => wire.send(&half).await?,
                Frame::Chunked => wire.send(&chunk(&half)).await?,
            }
            Err(wire.until_gone().await)
        }
        Fault::Garbage => {
            wire.send(b"\x16\x03garbage that is not HTTP\0\0\xff\xfe\r\n\r\nmore\r\n").await?;
            Ok(After::Close)
        }
        Fault::GarbageChunk => {
            let chunked = Answer { frame: Frame::Chunked, ..answer };
            wire.send(&head(&chunked, None)).await?;
            wire.send(&chunk(&half)).await?;
            wire.send(b"zz not a size\r\nrubbish\r\n").await?;
            Ok(After::Close)
        }
        Fault::Reset => {
            wire.send(&natural).await?;
            match answer.frame {
                Frame::Length => wire.send(&half).await?,
                Frame::Chunked => wire.send(&chunk(&half)).await?,
            }
            Ok(After::Reset)
        }
        Fault::ResetHead => Ok(After::Reset),
        Fault::BadContentLength => {
            wire.send(&head(&answer, Some(&["12abc"]))).await?;
            wire.send(&answer.pieces.concat()).await?;
            Ok(After::Close)
        }
        Fault::TwoContentLengths => {
            let length = answer.body_bytes().to_string();
            let other = (answer.body_bytes() + 7).to_string();
            wire.send(&head(&answer, Some(&[&length, &other]))).await?;
            wire.send(&answer.pieces.concat()).await?;
            Ok(After::Close)
        }
        Fault::HugeHead => {
            let mut huge = answer.clone();
            for place in 0..1024 {
                huge = huge.with(&format!("x-kit-huge-{place}"), "h".repeat(1000));
            }
            wire.send(&head(&huge, None)).await?;
            wire.send(&framed(&huge).concat()).await?;
            wire.send(&end(&huge, false)).await?;
            Ok(After::Close)
        }
        Fault::ToEnd => {
            wire.send(&head(&answer.clone().with("connection", "close"), Some(&[]))).await?;
            wire.send(&answer.pieces.concat()).await?;
            Ok(After::Close)
        }
        Fault::HalfCloseHead => {
            wire.end_of_ours().await?;
            Err(wire.until_gone().await)
        }
        Fault::HalfCloseBody => {
            let length = answer.body_bytes().to_string();
            wire.send(&head(&answer, Some(&[&length]))).await?;
            wire.send(&half).await?;
            wire.end_of_ours().await?;
            Err(wire.until_gone().await)
        }
        Fault::Switch | Fault::BadAccept | Fault::NoAccept | Fault::Extension | Fault::OtherProtocol => {
            wire.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: kit\r\n\r\n").await?;
            wire.send(b"not http any more").await?;
            Err(wire.until_gone().await)
        }
    }
}

/// The head; `lengths` replaces the framing headers with these `content-length`s.
fn head(answer: &Answer, lengths: Option<&[&str]>) -> Vec<u8> {
    let reason = reason(answer.status);
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    match (lengths, answer.frame) {
        (Some(lengths), _) => {
            for length in lengths {
                head += &format!("content-length: {length}\r\n");
            }
        }
        (None, Frame::Length) => head += &format!("content-length: {}\r\n", answer.body_bytes()),
        (None, Frame::Chunked) => head += "transfer-encoding: chunked\r\n",
    }
    head += "\r\n";
    head.into_bytes()
}

fn framed(answer: &Answer) -> Vec<Vec<u8>> {
    let full = answer.pieces.iter().filter(|piece| !piece.is_empty());
    full.map(|piece| match answer.frame {
        Frame::Length => piece.to_vec(),
        Frame::Chunked => chunk(piece),
    })
    .collect()
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let size = format!("{:x}\r\n", bytes.len());
    [size.as_bytes(), bytes, b"\r\n"].concat()
}

fn end(answer: &Answer, trailers: bool) -> Vec<u8> {
    match answer.frame {
        Frame::Length => Vec::new(),
        Frame::Chunked if trailers => b"0\r\nx-kit-trailer: sent\r\n\r\n".to_vec(),
        Frame::Chunked => b"0\r\n\r\n".to_vec(),
    }
}

/// The first half of the body, at a piece's border if there are several, and what follows.
fn halves(answer: &Answer) -> (Vec<u8>, Vec<u8>) {
    if answer.pieces.len() < 2 {
        let whole: Bytes = answer.pieces.first().cloned().unwrap_or_default();
        let middle = whole.len() / 2;
        return (whole[..middle].to_vec(), whole[middle..].to_vec());
    }
    // The same whether the answer ends with its usage or not.
    let middle = CUT_AFTER_PIECES.min(answer.pieces.len() / 2);
    (answer.pieces[..middle].concat(), answer.pieces[middle].to_vec())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Kit",
    }
}
