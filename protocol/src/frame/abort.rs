//! ABORT: the stream is over, and why.
//!
//! ```text
//! reason u16 | received bytes u64 | retry after ms u32 | elapsed ms u32 | detail: length u16, UTF-8
//! ```
//!
//! Invariant: an ABORT ends one stream and never the link.

use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;

use super::wire::PayloadError;
use super::wire::Reader;
use super::wire::put_text;

/// Why a stream was aborted. A number from a newer peer reads as `Unspecified`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum AbortReason {
    /// Not said, or said with a number this version does not know.
    Unspecified = 0,
    /// The consumer closed its connection.
    ConsumerGone = 1,
    /// The consumer's request broke off, was malformed or too large.
    RequestBroken = 2,
    /// The response is complete; the rest of the request is not wanted.
    Finished = 3,
    /// The side that sends it is stopping.
    Stopping = 4,
    /// A frame broke the protocol within this stream.
    Protocol = 5,
    /// More bytes came than credit was given for.
    FlowControl = 6,
    /// The link was lost. Never sent: it is what the survivors of a lost link are told.
    LinkLost = 7,
    /// The hub gave the call up; at the agent: the request stopped, or nobody reads the answer.
    Deadline = 8,
    /// No connection to the vendor: name, TCP or TLS.
    VendorUnreachable = 16,
    /// The vendor did not answer, or stopped answering, in time.
    VendorTimeout = 17,
    /// The vendor's response broke off.
    VendorBroke = 18,
    /// The vendor's response was not HTTP, or beyond the bounds.
    VendorGarbage = 19,
    /// The vendor refused the owner's account (401, 402, 403).
    OwnerRefused = 20,
    /// The vendor limits the owner's account (429).
    OwnerRateLimited = 21,
    /// The agent does not allow this endpoint, parameter, query, header or body.
    NotAllowed = 22,
    /// The agent holds no such key, or not for this vendor.
    OfferUnknown = 23,
    /// The agent takes no new calls now.
    Busy = 24,
    /// The agent does not hold the price table that the call is sold by.
    PricesUnknown = 25,
    /// The ticket is no order of the fleet to this agent for this call.
    TicketInvalid = 26,
    /// The call costs something, and came without a ticket.
    TicketMissing = 27,
    /// The attempt was ordered before: it may have been served then.
    TicketSeen = 28,
    /// The agent does not know the rules that the call is metered by.
    RulesUnknown = 29,
    /// The owner takes no calls at so low a share of the list price.
    TierTooLow = 30,
}

impl AbortReason {
    /// Every reason, in the order of the numbers.
    pub const ALL: [Self; 24] = [
        Self::Unspecified,
        Self::ConsumerGone,
        Self::RequestBroken,
        Self::Finished,
        Self::Stopping,
        Self::Protocol,
        Self::FlowControl,
        Self::LinkLost,
        Self::Deadline,
        Self::VendorUnreachable,
        Self::VendorTimeout,
        Self::VendorBroke,
        Self::VendorGarbage,
        Self::OwnerRefused,
        Self::OwnerRateLimited,
        Self::NotAllowed,
        Self::OfferUnknown,
        Self::Busy,
        Self::PricesUnknown,
        Self::TicketInvalid,
        Self::TicketMissing,
        Self::TicketSeen,
        Self::RulesUnknown,
        Self::TierTooLow,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// A short name, for metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::ConsumerGone => "consumer_gone",
            Self::RequestBroken => "request_broken",
            Self::Finished => "finished",
            Self::Stopping => "stopping",
            Self::Protocol => "protocol",
            Self::FlowControl => "flow_control",
            Self::LinkLost => "link_lost",
            Self::Deadline => "deadline",
            Self::VendorUnreachable => "vendor_unreachable",
            Self::VendorTimeout => "vendor_timeout",
            Self::VendorBroke => "vendor_broke",
            Self::VendorGarbage => "vendor_garbage",
            Self::OwnerRefused => "owner_refused",
            Self::OwnerRateLimited => "owner_rate_limited",
            Self::NotAllowed => "not_allowed",
            Self::OfferUnknown => "offer_unknown",
            Self::Busy => "busy",
            Self::PricesUnknown => "prices_unknown",
            Self::TicketInvalid => "ticket_invalid",
            Self::TicketMissing => "ticket_missing",
            Self::TicketSeen => "ticket_seen",
            Self::RulesUnknown => "rules_unknown",
            Self::TierTooLow => "tier_too_low",
        }
    }

    fn from_number(number: u16) -> Self {
        Self::ALL.iter().copied().find(|reason| reason.number() == number).unwrap_or(Self::Unspecified)
    }
}

/// The payload of ABORT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abort {
    /// Why.
    pub reason: AbortReason,
    /// Body bytes of this stream that the sender of the ABORT had received.
    pub received_bytes: u64,
    /// When a retry may succeed, in milliseconds; 0 is not known.
    pub retry_after_ms: u32,
    /// A hub whose consumer left: for how long the request had been passed on in full, in
    /// milliseconds, at least 1; 0 is not said, or that it was not.
    pub elapsed_ms: u32,
    /// For the log of the other side; never shown to a consumer. At most 256 bytes.
    pub detail: String,
}

impl Abort {
    /// An abort for this reason with nothing more to say.
    pub fn new(reason: AbortReason) -> Self {
        Self { reason, received_bytes: 0, retry_after_ms: 0, elapsed_ms: 0, detail: String::new() }
    }

    /// The same with a detail, cut to 256 bytes.
    pub fn with_detail(reason: AbortReason, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        let mut end = detail.len().min(256);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        detail.truncate(end);
        Self { detail, ..Self::new(reason) }
    }

    /// The payload.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(20 + self.detail.len());
        out.put_u16(self.reason.number());
        out.put_u64(self.received_bytes);
        out.put_u32(self.retry_after_ms);
        out.put_u32(self.elapsed_ms);
        put_text(&mut out, &self.detail);
        out.freeze()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it does not follow the layout.
    pub fn decode(payload: Bytes) -> Result<Self, PayloadError> {
        let mut reader = Reader::new(payload);
        let abort = Self {
            reason: AbortReason::from_number(reader.u16()?),
            received_bytes: reader.u64()?,
            retry_after_ms: reader.u32()?,
            elapsed_ms: reader.u32()?,
            detail: reader.text("detail")?,
        };
        reader.end()?;
        Ok(abort)
    }
}
