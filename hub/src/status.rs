//! `/v1/status` and `/v1/links`: what a running hub says of itself to its own command line.
//!
//! Invariant: ids, names and counts; never a key, a prompt or a consumer's address.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::agent_gateway::Figures;
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

/// The routes, for the admin listener.
pub fn routes(about: About) -> Router {
    Router::new().route("/v1/status", get(status)).route("/v1/links", get(links)).with_state(Arc::new(about))
}

async fn status(State(about): State<Arc<About>>) -> Json<Value> {
    let links = about.roster.links_with_seats();
    let links = links.iter().map(|(link, seats)| link_status(link, about.roster.has_prices(link), seats));
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

/// The links alone, without what they offer: for those who ask often.
async fn links(State(about): State<Arc<About>>) -> Json<Value> {
    let links = about.roster.links_up();
    let links = links.iter().map(|link| Value::Object(link_row(link, about.roster.has_prices(link))));
    Json(json!({ "schema": "keyhaven/links/v1", "links": links.collect::<Vec<_>>() }))
}

fn link_status(link: &LiveLink, has_prices: bool, seats: &[Seat]) -> Value {
    let offers = seats.iter().map(
        |seat| json!({ "provider": seat.provider, "resource": seat.resource.as_deref(), "models": seat.models.len() }),
    );
    let mut row = link_row(link, has_prices);
    row.insert("egress".to_owned(), json!(link.egress));
    row.insert("offers".to_owned(), offers.collect());
    Value::Object(row)
}

fn link_row(link: &LiveLink, has_prices: bool) -> Map<String, Value> {
    let stats = link.handle.stats();
    let figures = Figures::of(&stats);
    let state = match (link.accepts(), link.handle.is_open()) {
        (true, true) if has_prices => "open",
        // It takes no calls before it holds the prices in force.
        (true, true) => "without prices",
        (false, true) => "drained",
        (true | false, false) => "leaving",
    };
    let row = json!({
        "agent_id": link.agent,
        "name": link.name,
        "link_id": link.number,
        "linked_unix_ms": link.linked_unix_ms,
        "state": state,
        "rtt_us": figures.rtt_micros,
        "queue_us": figures.queue_micros,
        "queue_us_max": stats.counters.queue_delay.max_micros,
        "streams": figures.streams,
        "calls": figures.calls,
        "data_sent_bytes": figures.sent_bytes,
        "data_received_bytes": figures.received_bytes,
        "credit_stalls": figures.credit_stalls,
        "aborts_sent": figures.aborts_sent.values().sum::<u64>(),
        "aborts_received": figures.aborts_received.values().sum::<u64>(),
        "aborts": { "sent": figures.aborts_sent, "received": figures.aborts_received },
    });
    match row {
        Value::Object(row) => row,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}
