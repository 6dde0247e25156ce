//! A live link: offers in, the first heartbeat, its end.
//!
//! Invariant: whatever ends the link, the roster forgets it and its calls are told.

use std::convert::Infallible;
use std::sync::Arc;

use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::link;
use keyhaven_daemon::link::LinkEvents;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::Drain;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::Keys;
use keyhaven_protocol::frame::Prices;
use keyhaven_protocol::frame::Receipt;
use keyhaven_protocol::frame::Withdraw;
use keyhaven_protocol::frame::from_json;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::id::TokenId;
use keyhaven_protocol::leaf::Metered;
use keyhaven_protocol::link::LinkFault;
use tracing::debug;
use tracing::info;
use tracing::warn;

use super::AgentGateway;
use super::LiveLink;
use super::accept::Tunnel;
use super::handshake::Proved;
use super::ledger::LedgerLink;
use super::price_push::push;

pub(super) async fn run(gateway: Arc<AgentGateway>, socket: Box<Tunnel>, proved: Proved) {
    let link = proved.entered.link.clone();
    // Before anything that these keys sign.
    for keys in Keys::of_list(gateway.registry.keys.signer().list().entries()) {
        link.handle.send_control(FrameKind::Keys, &keys);
    }
    let events = Events {
        gateway: gateway.clone(),
        link: link.clone(),
        ledger: LedgerLink::new(&gateway, &link, proved.standing),
        public_key: proved.public_key,
        first_beat: Some(proved.enrolled_with),
    };
    let (leaving, draining) = (gateway.tasks.leaving(), gateway.tasks.draining());
    let stopping = gateway.tasks.stopping();
    let drain =
        Drain { deadline_ms: u64::try_from(gateway.config.calls.drain_grace().as_millis()).unwrap_or(u64::MAX) };
    let orders = async {
        leaving.cancelled().await;
        // The agent dials the next hub at once. This link stays for calls that came here.
        link.handle.send_control(FrameKind::Drain, &to_json(&drain));
        draining.cancelled().await;
        gateway.roster.leave(&link);
        link.handle.retire();
        stopping.cancelled().await;
        link.handle.close();
        std::future::pending::<Infallible>().await
    };
    let end = tokio::select! {
        end = link::run(*socket, &link.handle, events) => end,
        never = orders => match never {},
    };
    drop(proved.entered);
    gateway.sightings.note(link.agent, unix_ms_now());
    info!(agent.id = %link.agent, link.id = link.number, "agent {} unlinked: {end}", link.name);
}

struct Events {
    gateway: Arc<AgentGateway>,
    link: Arc<LiveLink>,
    ledger: LedgerLink,
    public_key: [u8; 32],
    /// Still to come: the first heartbeat, and the token that it makes used.
    first_beat: Option<Option<TokenId>>,
}

impl LinkEvents for Events {
    fn opened(&mut self, _stream: LinkStream, _open: bytes::Bytes) {
        // The state machine lets nobody but the hub open streams.
    }

    fn control(&mut self, frame: &Frame) -> Result<(), LinkFault> {
        if frame.kind == FrameKind::Offer.number() {
            let offered = self.gateway.roster.offer(&self.link, &frame.payload);
            offered.map_err(|_| LinkFault::Malformed(FrameKind::Offer))?;
        } else if frame.kind == FrameKind::Withdraw.number() {
            let withdraw: Withdraw =
                from_json(&frame.payload).map_err(|_| LinkFault::Malformed(FrameKind::Withdraw))?;
            self.gateway.roster.withdraw(&self.link, withdraw.vendor_key);
        } else if frame.kind == FrameKind::Prices.number() {
            let prices = Prices::decode(frame.payload.clone());
            match prices.map_err(|_| LinkFault::Malformed(FrameKind::Prices))? {
                Prices::Held(tables) => self.gateway.roster.holds(&self.link, tables),
                Prices::Part(_) => return Err(LinkFault::Misplaced(FrameKind::Prices)),
            }
            push(&self.link, &self.gateway.prices.to_sell_at(unix_ms_now()));
        } else if frame.kind == FrameKind::Claim.number() {
            self.ledger.group(&self.gateway, &self.link, frame.payload.clone())?;
        } else if frame.kind == FrameKind::Receipt.number() {
            let receipt = Receipt::decode(frame.payload.clone());
            self.on_receipt(receipt.map_err(|_| LinkFault::Malformed(FrameKind::Receipt))?);
        } else if frame.kind == FrameKind::Pong.number()
            && let Some(token) = self.first_beat.take()
        {
            match token {
                Some(token) => self.gateway.tasks.spawn(
                    "first-heartbeat",
                    note_joined(self.gateway.clone(), self.link.clone(), self.public_key, token),
                ),
                None => self.gateway.sightings.note(self.link.agent, unix_ms_now()),
            }
        }
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {
        self.gateway.roster.leave(&self.link);
        info!(agent.id = %self.link.agent, link.id = self.link.number, "agent {} drains", self.link.name);
    }
}

impl Events {
    /// What an agent without a ledger metered of a call.
    fn on_receipt(&self, receipt: Receipt) {
        let (call, attempt) = (receipt.call, receipt.attempt);
        if !self.link.deliver(call, attempt, figure_of(receipt)) {
            debug!(call.id = %call, agent.id = %self.link.agent, "nobody waits for the receipt of call {call}");
        }
    }
}

fn figure_of(receipt: Receipt) -> Metered {
    let Receipt { outcome, rule, doubts, tier, model, meters, heard_model, heard, .. } = receipt;
    let Receipt { list, response_bytes, elapsed_ms, .. } = receipt;
    Metered { outcome, rule, doubts, tier, model, meters, heard_model, heard, list, response_bytes, elapsed_ms }
}

async fn note_joined(gateway: Arc<AgentGateway>, link: Arc<LiveLink>, public_key: [u8; 32], token: TokenId) {
    if let Err(error) = gateway.registry.store.mark_joined(token, &public_key, unix_ms_now()).await {
        warn!(agent.id = %link.agent, "the heartbeat of agent {} was not written down: {error}", link.name);
    }
}
