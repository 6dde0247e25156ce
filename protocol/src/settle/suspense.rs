//! How long an amount that two sides do not agree on waits.
//!
//! Invariant: what is in suspense goes back to the consumer or by a signed resolution, and
//! never to the hub.

use super::moves::Moves;
use super::moves::negative;
use crate::money::NanoUsd;
use crate::money::TooMuch;

/// 30 days, in milliseconds.
pub const SUSPENSE_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// The entry `return`, one for each entry that put something into suspense: after 30 days by the
/// hub's clock the consumer gets it back, unless a signed resolution says otherwise, which then
/// books an entry of its own (rule 10). None: nothing is due. A clock that was set back only
/// makes it wait.
///
/// # Errors
/// When the amount is beyond 64 bits.
pub fn give_back(
    suspended: NanoUsd,
    since_unix_ms: u64,
    now_unix_ms: u64,
    is_resolved: bool,
) -> Result<Option<Moves>, TooMuch> {
    let is_due = now_unix_ms.saturating_sub(since_unix_ms) >= SUSPENSE_MS;
    if is_resolved || !is_due || suspended <= NanoUsd::ZERO {
        return Ok(None);
    }
    Ok(Some(Moves { consumer: suspended, suspense: negative(suspended)?, ..Moves::NOTHING }))
}
