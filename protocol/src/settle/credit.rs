//! What the owner gets for an attempt, when its CLOSE leaf comes, and when an ADJUST lowers it.
//!
//! Invariant: a credit is never more than what the hub saw supports, except where its own record
//! says that it may have forgotten, or where the operator gave money for what nobody saw.

use super::Metered;
use super::Shares;
use super::Verdict;
use super::moves::Moves;
use super::moves::charge;
use super::moves::ends;
use super::moves::negative;
use crate::money::NanoUsd;
use crate::money::TooMuch;
use crate::statement::Reason;

/// What the ticket says about money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Zone and tier.
    pub shares: Shares,
    /// The most that the attempt may cost, at list prices.
    pub ceiling: NanoUsd,
}

/// What the agent's chain says of an attempt that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// CLOSE has a figure. Where the credit waited for the call's end and an ADJUST came
    /// meanwhile, the lower one.
    Figure(Metered),
    /// CLOSE has none: the agent's process died. What its last PART said, else 0.
    Died {
        /// At list prices.
        so_far: NanoUsd,
    },
    /// [`crate::chain::Audit`] refused the leaf: no ticket of the fleet for this agent, not
    /// opened, closed before, over the ceiling.
    Refused,
}

/// What the hub knows of the attempt's call, when the leaf is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// It has not ended: it is metered by this process, or a `holds` row stands, or the boot that
    /// the ticket names has not ended. Asked again when it has.
    UnderWay,
    /// Its charge is booked, for this attempt.
    Charged(Charged),
    /// Its charge is booked, for another attempt: nothing of this one was delivered.
    OtherAttempt,
    /// The attempt's credit is booked, by another leaf: a second epoch, or a twin.
    Credited,
    /// It is over, and nothing was booked for it.
    Nothing(Remedy),
}

/// The booked charge of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charged {
    /// The figure that was charged.
    pub hub: Metered,
    /// It is only what was durably seen before a hub died: the sweeper's.
    pub is_provisional: bool,
}

/// Why an attempt of which the hub saw nothing may still be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// It may not.
    None,
    /// A journalled record says that the hub may have forgotten: it covers the ticket's boot and
    /// the call's time.
    Amnesia,
    /// So much is left of what the operator gives this agent today for such.
    OrphanBudget(NanoUsd),
}

/// What follows from a CLOSE leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credited {
    /// After amnesia: the entry `charge` of the call, with [`Self::list`] as the hub's figure,
    /// to be booked for this attempt together with the credit. The payer is in the ticket.
    pub charge: Option<Moves>,
    /// The entry `credit` of the attempt.
    pub credit: Moves,
    /// The list cost that is settled.
    pub list: NanoUsd,
    /// What the statement says of the leaf. [`Reason::Open`]: nothing is booked yet.
    pub reason: Reason,
    /// How the figures compare, where there are two.
    pub verdict: Option<Verdict>,
}

/// Who paid the credit that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaidBy {
    /// The consumer was charged this figure.
    Consumer {
        /// At list prices.
        charged: NanoUsd,
    },
    /// The operator, for work that nobody saw.
    OrphanBudget,
    /// Nobody: it was 0.
    Nobody,
}

/// The credit that stands, before an ADJUST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stands {
    /// Who paid it.
    pub paid_by: PaidBy,
    /// The list cost that is settled: of CLOSE, or of the ADJUST before.
    pub list: NanoUsd,
}

/// What follows from an ADJUST leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lowered {
    /// The entry `lowering` of the leaf.
    pub moves: Moves,
    /// The list cost that is settled now.
    pub list: NanoUsd,
}

impl Credited {
    /// Nothing is booked.
    const fn nothing(reason: Reason) -> Self {
        Self { charge: None, credit: Moves::NOTHING, list: NanoUsd::ZERO, reason, verdict: None }
    }
}

/// The entry `credit` of an attempt, one for each (call, attempt), and what the statement says.
///
/// | the hub | the agent | rule | what is paid | reason |
/// |---|---|---|---|---|
/// | under way | any | 3 | later | `open` |
/// | any | refused | 1 | 0 | `refused` |
/// | credited before | any | 7, 23 | 0 | `refused` |
/// | charged | the same figure | 10 | it | `agreed` |
/// | charged | more, and it sent more | 10 | the hub's figure | `short` |
/// | charged | more | 10 | the hub's figure | `agent_above` |
/// | charged | less | 10 | the agent's figure; the rest waits in suspense | `agent_below` |
/// | charged | died without a figure | 19 | the hub's figure | `no_figure` |
/// | charged what was last seen | as much or more | 18, 19, 22 | what was seen | `late` |
/// | charged for another attempt | 0 | 17 | 0 | `agreed` |
/// | charged for another attempt | more | 17 | 0 | `unobserved` |
/// | nothing | 0 | 9 | 0 | `agreed` |
/// | nothing | more | 9 | 0 | `unobserved` |
/// | nothing, and may have forgotten | more | 9, 19 | the agent's figure, by the consumer | `amnesia` |
/// | nothing, and a budget suffices | more | 9 | the agent's figure, by the operator | `orphan_budget` |
///
/// # Errors
/// When an amount is beyond 64 bits.
pub fn credit(observed: Observed, claim: Claim, terms: Terms) -> Result<Credited, TooMuch> {
    let claimed = match claim {
        Claim::Figure(figure) => figure.list.clamp(NanoUsd::ZERO, terms.ceiling.max(NanoUsd::ZERO)),
        Claim::Died { so_far } => so_far.clamp(NanoUsd::ZERO, terms.ceiling.max(NanoUsd::ZERO)),
        Claim::Refused => return Ok(Credited::nothing(Reason::Refused)),
    };
    match observed {
        Observed::UnderWay => Ok(Credited::nothing(Reason::Open)),
        Observed::Credited => Ok(Credited::nothing(Reason::Refused)),
        Observed::Charged(charged) => of_charged(charged, claim, terms.shares),
        Observed::OtherAttempt | Observed::Nothing(_) if claimed == NanoUsd::ZERO => {
            Ok(Credited::nothing(Reason::Agreed))
        }
        Observed::OtherAttempt | Observed::Nothing(Remedy::None) => Ok(Credited::nothing(Reason::Unobserved)),
        Observed::Nothing(Remedy::Amnesia) => {
            let charge = charge(claimed, terms.shares)?;
            let credit = ends(claimed, claimed, terms.shares)?.plus(charge.reversed()?)?;
            Ok(Credited { charge: Some(charge), credit, list: claimed, reason: Reason::Amnesia, verdict: None })
        }
        Observed::Nothing(Remedy::OrphanBudget(left)) => of_budget(left, claimed, terms.shares),
    }
}

/// The entry `lowering` of an ADJUST leaf: the owner takes less than what stands (rule 4). What
/// the consumer paid beyond it goes where disputed amounts are, or back to the operator's
/// budget; never into the hub's margin. Where the credit has not been booked yet, as its CLOSE
/// waits, nothing is: the lower figure is then the [`Claim`].
///
/// # Errors
/// When an amount is beyond 64 bits.
pub fn lower(stands: Stands, to: NanoUsd, shares: Shares) -> Result<Lowered, TooMuch> {
    let list = stands.list.min(to.max(NanoUsd::ZERO));
    let moves = match stands.paid_by {
        PaidBy::Consumer { charged } => {
            let before = ends(charged, stands.list, shares)?;
            ends(charged, list, shares)?.plus(before.reversed()?)?
        }
        PaidBy::OrphanBudget => {
            let before = out_of_margin(stands.list, shares)?;
            out_of_margin(list, shares)?.plus(before.reversed()?)?
        }
        PaidBy::Nobody => Moves::NOTHING,
    };
    Ok(Lowered { moves, list })
}

fn of_charged(charged: Charged, claim: Claim, shares: Shares) -> Result<Credited, TooMuch> {
    let hub = charged.hub.list.max(NanoUsd::ZERO);
    let (agent, verdict, reason) = match claim {
        Claim::Figure(figure) => {
            let verdict = match Verdict::of(charged.hub, figure) {
                // Less than all was seen, so that more is no contradiction.
                Verdict::AgentAbove if charged.is_provisional => Verdict::Short,
                verdict @ (Verdict::Agreed
                | Verdict::Short
                | Verdict::AgentAbove
                | Verdict::AgentBelow
                | Verdict::Open) => verdict,
            };
            (figure.list, Some(verdict), reason_of(verdict, charged.is_provisional))
        }
        Claim::Died { .. } | Claim::Refused => (hub, None, Reason::NoFigure),
    };
    let all = ends(hub, agent, shares)?;
    let credit = all.plus(charge(hub, shares)?.reversed()?)?;
    Ok(Credited { charge: None, credit, list: hub.min(agent.max(NanoUsd::ZERO)), reason, verdict })
}

const fn reason_of(verdict: Verdict, is_provisional: bool) -> Reason {
    match verdict {
        Verdict::AgentBelow => Reason::AgentBelow,
        Verdict::Agreed | Verdict::Short | Verdict::AgentAbove if is_provisional => Reason::Late,
        Verdict::Agreed => Reason::Agreed,
        Verdict::Short => Reason::Short,
        Verdict::AgentAbove => Reason::AgentAbove,
        Verdict::Open => Reason::Open,
    }
}

/// All of it or nothing, so that a credit is always the list cost by the tier.
fn of_budget(left: NanoUsd, claimed: NanoUsd, shares: Shares) -> Result<Credited, TooMuch> {
    let credit = out_of_margin(claimed, shares)?;
    if credit.owner > left {
        return Ok(Credited::nothing(Reason::Unobserved));
    }
    Ok(Credited { charge: None, credit, list: claimed, reason: Reason::OrphanBudget, verdict: None })
}

fn out_of_margin(list: NanoUsd, shares: Shares) -> Result<Moves, TooMuch> {
    let owner = list.share_rounded_down(shares.tier)?;
    Ok(Moves { owner, margin: negative(owner)?, ..Moves::NOTHING })
}
