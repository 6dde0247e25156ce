//! The figure of a call, and what it depends on besides the bytes.
//!
//! Invariant: the numbers of rules and outcomes are on the wire and in ledgers, and are
//! never given to others.

use crate::demand::Demand;
use crate::money::NanoUsd;
use crate::price::Line;
use crate::price::PriceTable;
use crate::price::ServiceTier;
use crate::provider::Provider;
use crate::usage::Doubts;
use crate::usage::Meters;

/// How a call ended, as whoever meters it saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The answer's END: its transport ended in order.
    Complete,
    /// The consumer left; for so long its request had been passed on in full.
    ConsumerLeft {
        /// In milliseconds.
        elapsed_ms: u32,
    },
    /// The vendor, the agent or the link ended it, and the consumer was still there.
    Broke,
    /// It was over before the request had been sent in full.
    NotSent,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// Answered.
    Complete = 1,
    /// The vendor answered with an error, or said one in its answer.
    Failed = 2,
    /// The consumer left before the end.
    ConsumerLeft = 3,
    /// The answer broke off.
    Broke = 4,
    /// The request was not sent in full.
    NotSent = 5,
}

/// By which rule the figure was made. `docs/METERING.md` says who pays what by which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rule {
    /// Nothing is owed.
    Nothing = 1,
    /// What the vendor stated.
    Stated = 2,
    /// Of what the vendor stated, the output that was delivered.
    Delivered = 3,
    /// What was stated, and estimates of the rest, with time: the consumer left.
    Left = 4,
    /// What was stated, and estimates of the rest, without time: the vendor ended and did
    /// not say what it used.
    Unstated = 5,
    /// Counted in the request, as the vendor counts it.
    Requested = 6,
}

/// What a figure depends on besides the answer: the request, and by what it was sold.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The prices that the call's terms name.
    pub prices: &'a PriceTable,
    /// Whose API it is.
    pub provider: Provider,
    /// The model that was asked for: the path's parameter, the query's or the body's.
    pub model: &'a str,
    /// What the whole request asks for; none as long as it was not sent in full.
    pub demand: Option<&'a Demand>,
    /// The most that it may cost, at list prices.
    pub ceiling: NanoUsd,
}

/// What one side metered of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// What became of the call.
    pub outcome: Outcome,
    /// By which rule the rest was made.
    pub rule: Rule,
    /// What makes it less than certain.
    pub doubts: Doubts,
    /// The model that answered, as it names itself.
    pub model: Option<String>,
    /// The class of service that it is billed in.
    pub tier: ServiceTier,
    /// What is billed.
    pub meters: Meters,
    /// Realtime: the model that wrote down what was heard.
    pub heard_model: Option<String>,
    /// Realtime: what is billed of it.
    pub heard: Meters,
    /// The bill; its sum exceeds `list` when the ceiling was reached.
    pub lines: Vec<Line>,
    /// What the call costs at list prices.
    pub list: NanoUsd,
    /// Bytes of the answer's body, as they were on the link.
    pub response_bytes: u64,
    /// The time that an estimate was made with, in milliseconds; else 0.
    pub elapsed_ms: u32,
}

impl Figure {
    /// Whether part of it is an estimate.
    pub const fn is_estimated(&self) -> bool {
        self.rule.is_estimate()
    }

    /// A call that owes nothing.
    pub(super) fn nothing(outcome: Outcome, response_bytes: u64) -> Self {
        Self {
            outcome,
            rule: Rule::Nothing,
            doubts: Doubts::default(),
            model: None,
            tier: ServiceTier::Standard,
            meters: Meters::default(),
            heard_model: None,
            heard: Meters::default(),
            lines: Vec::new(),
            list: NanoUsd::ZERO,
            response_bytes,
            elapsed_ms: 0,
        }
    }
}

impl Outcome {
    /// All of them, by number.
    pub const ALL: [Self; 5] = [Self::Complete, Self::Failed, Self::ConsumerLeft, Self::Broke, Self::NotSent];

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The outcome with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.number() == number)
    }

    /// A short name, for records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::ConsumerLeft => "consumer_left",
            Self::Broke => "broke",
            Self::NotSent => "not_sent",
        }
    }
}

impl Rule {
    /// All of them, by number.
    pub const ALL: [Self; 6] =
        [Self::Nothing, Self::Stated, Self::Delivered, Self::Left, Self::Unstated, Self::Requested];

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The rule with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.number() == number)
    }

    /// A short name, for records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Stated => "stated",
            Self::Delivered => "delivered",
            Self::Left => "left",
            Self::Unstated => "unstated",
            Self::Requested => "requested",
        }
    }

    /// Whether figures by this rule are estimates.
    pub const fn is_estimate(self) -> bool {
        match self {
            Self::Left | Self::Unstated => true,
            Self::Nothing | Self::Stated | Self::Delivered | Self::Requested => false,
        }
    }
}
