//! Price tables on their way to agents, and which one links must hold to take calls.
//!
//! Invariant: a table is sent to a link once, and only to an agent that said what it holds.

use std::sync::Arc;
use std::time::Duration;

use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_protocol::frame::FrameKind;
use tokio_util::sync::CancellationToken;

use super::live_link::LiveLink;
use super::roster::Roster;
use crate::pricing::board::Priced;
use crate::pricing::board::Prices;

/// Links that are sent a table at once, and the pause before the next ones: a fleet of ten
/// thousand has it within seconds, and little waits in memory.
const LINKS_AT_ONCE: usize = 256;
const PAUSE: Duration = Duration::from_millis(50);

/// The clock may be set: it is looked at again after this time.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Sends a link those of these tables that its agent lacks.
pub(super) fn push(link: &LiveLink, tables: &[Arc<Priced>]) {
    for priced in tables.iter().filter(|priced| link.begin_sending(priced.named)) {
        for part in &priced.parts {
            link.handle.send_control(FrameKind::Prices, part);
        }
    }
}

/// Sends every link what was published, and lets the roster know what is in force.
pub(super) async fn follow(roster: Roster, prices: Prices, stop: CancellationToken) {
    let mut changed = prices.changed();
    loop {
        changed.mark_unchanged();
        let now = unix_ms_now();
        let to_sell_at = prices.to_sell_at(now);
        roster.sell_at(prices.in_force(now).map(|priced| priced.named));
        for some in roster.links().chunks(LINKS_AT_ONCE) {
            some.iter().for_each(|link| push(link, &to_sell_at));
            if some.len() == LINKS_AT_ONCE {
                tokio::time::sleep(PAUSE).await;
            }
        }
        let next = prices.next_change(now).map_or(WAIT_MAX, |ms| Duration::from_millis(ms - now).min(WAIT_MAX));
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            result = changed.changed() => if result.is_err() { return },
            () = tokio::time::sleep(next) => {}
        }
    }
}
