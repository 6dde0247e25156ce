//! What attempts are ordered by, as the agents that get them see it.
//!
//! Invariant: an order is looked at with what its agent knows, and its payer with the archive key.

use std::sync::Arc;

use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::metering::METER_RULES;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::ticket::Gate;
use keyhaven_protocol::ticket::Order;
use keyhaven_protocol::ticket::Ticket;

use super::scene::Agent;
use super::scene::Scene;
use super::scene::answer;
use crate::store::accounts::DEFAULT_ACCOUNT;

const BODY: &str = r#"{"model":"gpt-9","messages":[]}"#;

#[tokio::test]
async fn every_attempt_has_an_order_of_its_own_that_its_agent_can_verify() {
    let scene = Scene::build().await;
    let mut agents = [scene.agent(1, &["gpt-9"]).await, scene.agent(2, &["gpt-9"]).await];
    let mut consumer = scene.ask(BODY).await;

    let (first, refused, stream) = next(&mut agents).await;
    stream.abort(Abort::new(AbortReason::Busy));
    let (second, served, stream) = next(&mut agents).await;
    answer(&stream, 200, "2", "hi");
    assert!(consumer.answer().await.0.starts_with("HTTP/1.1 200 "));

    assert_ne!(first, second);
    let (one, two) = (examined(&scene, first, &refused), examined(&scene, second, &served));
    assert_eq!((one.attempt, two.attempt), (1, 2));
    assert_eq!((one.call, one.boot, one.ceiling, &one.model), (two.call, two.boot, two.ceiling, &two.model));
    assert_ne!(one.payer, two.payer, "the same consumer is sealed differently every time");
    for ticket in [one, two] {
        assert_eq!((ticket.hub_node, ticket.boot), (scene.keys.node(), scene.gateway.books.boot()));
        assert_eq!((ticket.model.as_str(), ticket.zone, ticket.tier), ("gpt-9", Ppm(1_000_000), Ppm(800_000)));
        let payer = scene.keys.archive_key().open_payer(&ticket.payer, ticket.sealed_for()).unwrap();
        assert_eq!((payer.account, payer.key, payer.zone), (DEFAULT_ACCOUNT, ApiKeyId([1; 16]), ticket.zone));
        // At zone 1 what is set aside is the ceiling.
        assert!(payer.hold == ticket.ceiling && payer.hold > NanoUsd::ZERO, "{payer:?}");
    }
}

/// The next call, and whose it is.
async fn next(agents: &mut [Agent]) -> (usize, OpenHead, keyhaven_daemon::link::LinkStream) {
    let calls = agents.iter_mut().enumerate().map(|(at, agent)| {
        Box::pin(async move {
            let (open, _, stream) = agent.whole_call().await;
            (at, open, stream)
        })
    });
    futures_util::future::select_all(calls).await.0
}

fn examined(scene: &Scene, at: usize, open: &OpenHead) -> Ticket {
    let gate = Gate {
        agent: AgentId([u8::try_from(at).unwrap() + 1; 16]),
        keys: Arc::new(scene.keys.signer().list().clone()),
        oldest_key: 0,
        meter_rules: METER_RULES,
        tier_floor: Ppm(800_000),
    };
    let order = Order { call: open.call, vendor_key: open.vendor_key, endpoint: open.endpoint };
    let in_force = scene.gateway.prices.in_force(2).unwrap();
    let held = |version, hash: &_| (version, *hash) == (in_force.version(), in_force.hash());
    gate.examine(open.ticket.as_ref().unwrap(), order, held).unwrap().ticket().clone()
}
