//! Faults of the state machine itself, put in at its edges: what it writes, what it tells, what
//! it keeps.
//!
//! Invariant: each one alone breaks a promise of the link; the schedules must find all of them.

use bytes::Bytes;
use bytes::BytesMut;

use crate::frame::Frame;
use crate::frame::FrameKind;
use crate::frame::next_frame;
use crate::frame::put_frame;
use crate::link::Event;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    LosesCredit,
    GrantsTwice,
    LosesEnd,
    LosesAbort,
    AbortsTwice,
    LosesData,
    RepeatsData,
    EndOvertakesData,
    SendsBeyondCredit,
    NeverTellsReadable,
    NeverTellsWritable,
    NeverTellsAborted,
    TellsAbortedTwice,
    KeepsReleasedStreams,
    KeepsCommittedBytes,
    KeepsStreamsOfALostLink,
    NeverGivesUpASilentPeer,
}

impl Mutant {
    pub(super) const ALL: [Self; 17] = [
        Self::LosesCredit,
        Self::GrantsTwice,
        Self::LosesEnd,
        Self::LosesAbort,
        Self::AbortsTwice,
        Self::LosesData,
        Self::RepeatsData,
        Self::EndOvertakesData,
        Self::SendsBeyondCredit,
        Self::NeverTellsReadable,
        Self::NeverTellsWritable,
        Self::NeverTellsAborted,
        Self::TellsAbortedTwice,
        Self::KeepsReleasedStreams,
        Self::KeepsCommittedBytes,
        Self::KeepsStreamsOfALostLink,
        Self::NeverGivesUpASilentPeer,
    ];

    /// What the mutant writes instead of this batch; `None` is the batch as it is.
    pub(super) fn writes(self, batch: &Bytes) -> Option<Bytes> {
        let mut rest = batch.clone();
        let mut frames = Vec::new();
        while let Ok(Some(frame)) = next_frame(&mut rest) {
            frames.push(frame);
        }
        match self {
            Self::LosesCredit => drop(frames.remove(position(&frames, FrameKind::Credit)?)),
            Self::LosesEnd => drop(frames.remove(position(&frames, FrameKind::End)?)),
            Self::LosesAbort => drop(frames.remove(position(&frames, FrameKind::Abort)?)),
            Self::LosesData => drop(frames.remove(position(&frames, FrameKind::Data)?)),
            Self::GrantsTwice => repeat(&mut frames, FrameKind::Credit)?,
            Self::AbortsTwice => repeat(&mut frames, FrameKind::Abort)?,
            Self::RepeatsData => repeat(&mut frames, FrameKind::Data)?,
            Self::EndOvertakesData => {
                let end = position(&frames, FrameKind::End)?;
                let of_stream = |frame: &Frame| frame.stream == frames[end].stream;
                let data =
                    frames.iter().position(|frame| of_stream(frame) && frame.kind == FrameKind::Data.number())?;
                frames.swap(data, end);
            }
            Self::SendsBeyondCredit
            | Self::NeverTellsReadable
            | Self::NeverTellsWritable
            | Self::NeverTellsAborted
            | Self::TellsAbortedTwice
            | Self::KeepsReleasedStreams
            | Self::KeepsCommittedBytes
            | Self::KeepsStreamsOfALostLink
            | Self::NeverGivesUpASilentPeer => return None,
        }
        let mut out = BytesMut::new();
        for frame in frames {
            put_frame(&mut out, FrameKind::from_number(frame.kind)?, frame.stream, &frame.payload);
        }
        Some(out.freeze())
    }

    /// How often the mutant tells this.
    pub(super) fn tells(self, event: &Event) -> usize {
        match (self, event) {
            (Self::NeverTellsReadable, Event::Readable(_))
            | (Self::NeverTellsWritable, Event::Writable(_))
            | (Self::NeverTellsAborted, Event::Aborted(_)) => 0,
            (Self::TellsAbortedTwice, Event::Aborted(_)) => 2,
            _ => 1,
        }
    }
}

fn position(frames: &[Frame], kind: FrameKind) -> Option<usize> {
    frames.iter().position(|frame| frame.kind == kind.number())
}

fn repeat(frames: &mut Vec<Frame>, kind: FrameKind) -> Option<()> {
    let at = position(frames, kind)?;
    frames.insert(at, frames[at].clone());
    Some(())
}
