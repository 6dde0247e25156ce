//! `/v1/status`: what a running hub says of itself to its own command line.
//!
//! Invariant: ids, names and counts; never a key, a prompt or a consumer's address.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde_json::Value;
use serde_json::json;

use crate::agent_gateway::LiveLink;
use crate::agent_gateway::Roster;
use crate::agent_gateway::Seat;
use crate::user_gateway::UserGateway;

/// What the status is made of.
pub struct About {
    /// When this process started.
    pub started_unix_ms: u64,
    /// The hub's fleet.
    pub fleet: String,
    /// The base URL that consumers use.
    pub consumer: String,
    /// Where agents are served.
    pub tunnel: SocketAddr,
    /// The live links.
    pub roster: Roster,
    /// The calls.
    pub users: Arc<UserGateway>,
}

/// The route, for the admin listener.
pub fn routes(about: About) -> Router {
    Router::new().route("/v1/status", get(status)).with_state(Arc::new(about))
}

async fn status(State(about): State<Arc<About>>) -> Json<Value> {
    let links = about.roster.links_with_seats();
    let links = links.iter().map(|(link, seats)| link_status(link, seats));
    Json(json!({
        "schema": "keyhaven/status/v1",
        "version": env!("CARGO_PKG_VERSION"),
        "started_unix_ms": about.started_unix_ms,
        "fleet": about.fleet,
        "consumer": about.consumer,
        "tunnel": about.tunnel.to_string(),
        "links": links.collect::<Vec<_>>(),
        "calls": { "begun": about.users.calls_begun() },
    }))
}

fn link_status(link: &LiveLink, seats: &[Seat]) -> Value {
    let offers = seats.iter().map(
        |seat| json!({ "provider": seat.provider, "resource": seat.resource.as_deref(), "models": seat.models.len() }),
    );
    let offers: Vec<Value> = offers.collect();
    let stats = link.handle.stats();
    json!({
        "agent_id": link.agent,
        "name": link.name,
        "link_id": link.number,
        "linked_unix_ms": link.linked_unix_ms,
        "egress": link.egress,
        "rtt_us": stats.rtt_micros,
        "streams": stats.streams,
        "calls": stats.counters.opened,
        "data_sent_bytes": stats.counters.data_sent_bytes,
        "data_received_bytes": stats.counters.data_received_bytes,
        "aborts_sent": stats.counters.aborts_sent.total(),
        "aborts_received": stats.counters.aborts_received.total(),
        "credit_stalls": stats.counters.credit_stalls,
        "offers": offers,
    })
}
