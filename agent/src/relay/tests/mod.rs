//! The relay between a real link and a vendor whose every byte a test decides.
//!
//! Invariant: what is asserted is seen from outside: by the hub, or at the vendor's socket.

mod aborts;
mod insults;
mod orders;
mod owner;
mod realtime;
mod receipts;
mod scene;

use std::time::Duration;

/// Nothing moves for so long: every buffer on the way is full.
const NO_CREDIT: Duration = Duration::from_millis(300);

/// Longer than a key that calls find rejected waits to be asked again.
const RECHECK: Duration = Duration::from_secs(20);
