//! Mistakes around the shipped machines: each alone must be found out.
//!
//! Invariant: a mutant changes what a driver does with an answer, never the machines.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Mutant {
            $($(#[$doc])* $name,)*
        }

        impl Mutant {
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

mutants! {
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
    /// The agent serves an order that it let in before.
    ServesTwice,
    /// The agent calls the vendor for whoever asks.
    ServesForged,
    /// WELCOME is not heard: the agent goes on from what it was told before.
    IgnoresWelcome,
    /// A CLAIM is dropped though the link stands.
    LosesClaims,
    /// NEED is not heard.
    IgnoresNeed,
    /// An older copy goes on where it stands.
    GoesOnFromCopy,
    /// The hub acknowledges what it took.
    AcksBeforeCommit,
    /// The hub acknowledges nothing.
    NeverAcks,
    /// The hub asks for nothing.
    NeverNeeds,
    /// WELCOME says what the hub remembers, not what the books have.
    WelcomesFromMemory,
    /// A hub does not hear that the database went back.
    MissesRollback,
    /// The writer takes leaves after a gap.
    WritesGaps,
    /// The writer takes a leaf again.
    WritesTwice,
    /// A call is charged again by every hub that ends it.
    ChargesTwice,
    /// An attempt is credited by every chain that closes it.
    CreditsTwice,
    /// Half of a batch is committed, and all of it said to be.
    CommitsHalves,
    /// A batch that failed is dropped, and nobody is told.
    DropsFailedBatches,
    /// Calls that ended are dropped with a batch that failed.
    DropsEnded,
    /// A hub that was taken for dead goes on as it was.
    NoFence,
    /// What a dead hub held stays held.
    NeverSweeps,
    /// A dead hub's calls are charged their ceiling.
    SweepsCeiling,
    /// A hub that stopped uncleanly is not written down as one that may have forgotten.
    NoAmnesiaRecord,
    /// Whatever the hub did not see is believed.
    AlwaysAmnesia,
    /// A leaf of a call under way is decided at once.
    DecidesEarly,
    /// A leaf that waits is forgotten.
    NeverDecides,
    /// The consumer is charged by the agent's figure.
    ChargesByLeaf,
    /// The owner is credited by the agent's figure.
    CreditsByLeaf,
    /// What the figures differ by is kept.
    KeepsDifference,
    /// Leaves are settled though their audit refuses them.
    SkipsAudit,
    /// Tickets in leaves are not looked at.
    SkipsTickets,
    /// Groups' signatures and leaves' hashes are not looked at.
    SkipsChain,
    /// The orphan budget is not counted down.
    EndlessBudget,
    /// ADJUST raises.
    RaisesCredit,
    /// The hub holds on money that others have leased.
    SharesLeases,
    /// Leases of boots that ended stay.
    KeepsLeases,
    /// The same Idempotency-Key is served again.
    ServesKeysTwice,
    /// Statements are not sent again.
    LosesStatements,
    /// A statement leaves a leaf out.
    StatesGaps,
    /// A statement credits less than the books.
    StatesLess,
    /// What is in suspense is never given back.
    NeverReturns,
    /// What is in suspense is given back again and again.
    ReturnsTwice,
    /// The failover leaves the first attempt's figure in.
    ChargesAttempts,
}
