//! Mistakes in what is around the two halves: each alone must be found out.
//!
//! Invariant: a mutant changes what a driver does with an answer, never the halves.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    /// The log says that leaves are durable before they are.
    TellsDurableEarly,
    /// A crash takes leaves that were durable.
    LosesDurable,
    /// Bytes leave before OPEN is durable.
    BytesBeforeOpen,
    /// The end leaves before CLOSE is durable.
    EndBeforeClose,
    /// A restart leaves attempts open.
    LeavesOpen,
    /// An abort that comes after the end closes the attempt again.
    ClosesTwice,
    /// WELCOME is not heard: the agent goes on from what it was told before.
    IgnoresWelcome,
    /// A CLAIM is dropped though the link stands.
    LosesClaims,
    /// NEED is not heard.
    IgnoresNeed,
    /// The hub acknowledges what it took.
    AcksBeforeCommit,
    /// The hub acknowledges nothing.
    NeverAcks,
    /// The hub asks for nothing.
    NeverNeeds,
    /// WELCOME says what the hub remembers, not what the books have.
    WelcomesFromMemory,
    /// WELCOME counts what waits to be committed.
    WelcomesUncommitted,
    /// A hub does not hear that the database went back.
    MissesRollback,
    /// The writer takes leaves after a gap.
    WritesGaps,
    /// The writer takes a leaf again.
    WritesTwice,
    /// The writer charges a call for every attempt's close that it sees, again and again.
    ChargesTwice,
    /// Half of a batch is committed, and all of it said to be.
    CommitsHalves,
    /// A batch that failed is dropped, and nobody is told.
    DropsFailedBatches,
}

impl Mutant {
    pub(super) const ALL: [Self; 20] = [
        Self::TellsDurableEarly,
        Self::LosesDurable,
        Self::BytesBeforeOpen,
        Self::EndBeforeClose,
        Self::LeavesOpen,
        Self::ClosesTwice,
        Self::IgnoresWelcome,
        Self::LosesClaims,
        Self::IgnoresNeed,
        Self::AcksBeforeCommit,
        Self::NeverAcks,
        Self::NeverNeeds,
        Self::WelcomesFromMemory,
        Self::WelcomesUncommitted,
        Self::MissesRollback,
        Self::WritesGaps,
        Self::WritesTwice,
        Self::ChargesTwice,
        Self::CommitsHalves,
        Self::DropsFailedBatches,
    ];
}
