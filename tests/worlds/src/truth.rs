//! What really happened to each call, written down as it happens and by nobody who settles.
//!
//! Invariant: nothing here is read by hubs, agents or books; only the checks read it.

/// How many tries a call has at most.
pub(crate) const ATTEMPTS: usize = 3;

/// One call.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Call {
    pub(crate) consumer: u8,
    /// The name of the hub's process when it was asked.
    pub(crate) boot: u16,
    /// The list price of one unit of the answer.
    pub(crate) unit: i64,
    pub(crate) zone: u32,
    pub(crate) tier: u32,
    pub(crate) ceiling: i64,
    pub(crate) attempts: [Attempt; ATTEMPTS],
    /// Units that the consumer got.
    pub(crate) got: u32,
    /// The consumer got the end.
    pub(crate) got_end: bool,
    /// The attempt and the figure with which a hub ended it, when one did.
    pub(crate) ended: Option<(u8, i64)>,
    /// The most that was ever written of it before its end.
    pub(crate) observed_max: i64,
    /// A hub that had it died, was taken for dead, or its books were lost: it may be forgotten.
    pub(crate) is_forgettable: bool,
}

/// One attempt at it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attempt {
    pub(crate) agent: u8,
    /// A byte of it left the agent, and the end of it did.
    pub(crate) left: bool,
    pub(crate) end_left: bool,
    /// OPEN and CLOSE were durable then.
    pub(crate) open_durable: bool,
    pub(crate) close_durable: bool,
    /// The vendor was asked so often.
    pub(crate) served: u8,
}
