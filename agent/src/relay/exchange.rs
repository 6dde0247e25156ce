//! The exchange with the vendor up to the head of its answer.
//!
//! Invariant: every wait has an end, and an answer whose framing is in doubt is not relayed.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::StatusCode;
use http::header;
use http::response::Parts;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::provider::headers::response_to_consumer;
use keyhaven_protocol::provider::websocket::accepts;
use tokio::time::Instant;

use super::End;
use super::answer::Answer;
use super::metered::Metered;
use super::patience::Patience;
use super::realtime::Conversation;
use super::refusal::ERROR_BYTES_MAX;
use super::refusal::about_owner;
use super::refusal::may_be_about_owner;
use super::request::VendorRequest;
use super::request::WantedUpgrade;
use super::upload::CallBody;
use super::upload::Upload;
use crate::config::Calls;
use crate::provider::VendorClient;
use crate::provider::VendorError;
use crate::provider::deepest;

/// How long the begin of an error's body is waited for.
const ERROR_TIME_MAX: Duration = Duration::from_secs(2);

/// Calls the vendor and relays what it says.
pub(super) async fn exchange(
    client: &VendorClient<Box<CallBody>>,
    calls: &Calls,
    stream: &LinkStream,
    vendor: VendorRequest,
    metered: &mut Metered,
) -> End {
    let VendorRequest { key, request, upload, upgrade } = vendor;
    let (idle, to_head) = (calls.vendor_idle_timeout(), calls.vendor_head_timeout());
    let mut patience = Patience::until(upload.due(idle, to_head));
    let answered = {
        let mut sent = pin!(client.send(&key.host, request));
        poll_fn(|cx| match sent.as_mut().poll(cx) {
            Poll::Ready(sent) => Poll::Ready(sent.map_err(|error| no_answer(&upload, &error))),
            Poll::Pending => patience.poll_late(cx, || upload.due(idle, to_head)).map(|()| Err(upload.late())),
        })
        .await
    };
    let (connection, response) = match answered {
        Ok(answered) => answered,
        Err(abort) => return End::Refused(abort),
    };
    let (head, body) = response.into_parts();
    let mut answer = Answer::new(connection, body, upload, patience, idle, upgrade.is_none());
    if let (Some(upgrade), StatusCode::SWITCHING_PROTOCOLS) = (upgrade, head.status) {
        // Rare, and its state is large: ordinary calls do not carry it.
        return Box::pin(switch(stream, upgrade, &head, answer, metered)).await;
    }
    let begin = match may_be_about_owner(head.status) {
        true => {
            let begin = answer.begin(ERROR_BYTES_MAX, Instant::now() + ERROR_TIME_MAX).await;
            if let Some(refusal) = about_owner(head.status, &head.headers, &begin) {
                answer.keep_connection(client);
                return End::OwnerRefused(refusal);
            }
            Some(begin)
        }
        false => None,
    };
    match encoded(&head, metered) {
        Ok(head) => answer.relay(stream, head, begin.map(BytesMut::freeze), client, metered).await,
        Err(why) => End::Refused(Abort::with_detail(AbortReason::VendorGarbage, why)),
    }
}

/// Goes on as a WebSocket, when the vendor agreed to this one and nobody was ahead of that.
async fn switch(
    stream: &LinkStream,
    upgrade: WantedUpgrade,
    head: &Parts,
    answer: Answer,
    metered: &mut Metered,
) -> End {
    let garbage = |why| End::Refused(Abort::with_detail(AbortReason::VendorGarbage, why));
    if !accepts(&upgrade.handshake, &head.headers) {
        return garbage("the vendor agreed to another handshake");
    }
    let Some(conversation) = answer.into_conversation(stream, upgrade.scan) else {
        return garbage("the vendor agreed and went on with HTTP");
    };
    if !Conversation::was_quiet(stream).await {
        return End::Refused(Abort::with_detail(AbortReason::Protocol, "bytes before the vendor agreed"));
    }
    match carried(head, metered) {
        Ok(head) => conversation.run(head, metered).await,
        Err(why) => garbage(why),
    }
}

/// The head as the link carries it.
fn encoded(head: &Parts, metered: &mut Metered) -> Result<Bytes, &'static str> {
    if !(200..600).contains(&head.status.as_u16()) {
        return Err("the response's status is out of place");
    }
    if !is_framed_plainly(head.status, &head.headers) {
        return Err("the response says twice, or not clearly, where it ends");
    }
    carried(head, metered)
}

fn carried(head: &Parts, metered: &mut Metered) -> Result<Bytes, &'static str> {
    let relayed = ResponseHead { status: head.status, headers: response_to_consumer(&head.headers) };
    metered.head(relayed.status, &relayed.headers);
    let encoded = relayed.encode().ok().filter(|head| head.len() <= FrameKind::Head.payload_bytes_max());
    encoded.ok_or("the response's head is beyond the bounds")
}

/// Whether nobody could read another end of the body out of this head than we do: the
/// consumer is shown the same `content-length`.
fn is_framed_plainly(status: StatusCode, headers: &HeaderMap) -> bool {
    let lengths = headers.get_all(header::CONTENT_LENGTH).into_iter().count();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).into_iter();
    match (lengths, codings.next(), codings.next()) {
        (0, None, None) => true,
        (1, None, None) => status != StatusCode::NO_CONTENT,
        (0, Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    }
}

fn no_answer(upload: &Upload, error: &VendorError) -> Abort {
    if let Some(abort) = upload.broke() {
        return abort;
    }
    let reason = match error {
        VendorError::Connect(_) => AbortReason::VendorUnreachable,
        VendorError::Http(error) => reason_of_http(error),
    };
    Abort::with_detail(reason, deepest(error))
}

pub(super) fn reason_of_http(error: &hyper::Error) -> AbortReason {
    if error.is_parse() { AbortReason::VendorGarbage } else { AbortReason::VendorBroke }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn an_answer_that_could_be_cut_in_two_ways_is_not_relayed() {
        let plain = |headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            is_framed_plainly(StatusCode::OK, &map)
        };

        assert!(plain(&[]));
        assert!(plain(&[("content-length", "5")]));
        assert!(plain(&[("transfer-encoding", "Chunked")]));
        assert!(!plain(&[("content-length", "5"), ("content-length", "5")]));
        assert!(!plain(&[("content-length", "5"), ("transfer-encoding", "chunked")]));
        assert!(!plain(&[("transfer-encoding", "gzip, chunked")]));
        assert!(!plain(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]));
    }
}
