//! `/v1/models`: what agents offer, in the shape of the vendor whose path was asked.
//!
//! Invariant: a model is listed only while some open link offers it.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use keyhaven_protocol::provider::native_error::ErrorShape;
use keyhaven_protocol::provider::route::Candidate;
use keyhaven_protocol::provider::route::Route;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::agent_gateway::Offered;
use crate::agent_gateway::Roster;

#[derive(Serialize)]
struct OpenAiList<'a> {
    object: &'static str,
    data: Vec<&'a RawValue>,
}

#[derive(Serialize)]
struct AnthropicList<'a> {
    data: Vec<&'a RawValue>,
    has_more: bool,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
}

/// The answer to a models request: a list, one model's object, or none for a model that
/// nobody offers.
pub(super) fn answer(roster: &Roster, route: &Route) -> Option<Bytes> {
    let wanted = route.candidates.iter().find_map(|candidate: &Candidate| candidate.parameter.as_deref());
    if let Some(wanted) = wanted {
        let model = one(roster, route, wanted)?;
        return Some(Bytes::copy_from_slice(model.object.get().as_bytes()));
    }
    let offered = all(roster, route);
    let data = offered.iter().map(|model| &*model.object).collect();
    let json = match route.shape {
        ErrorShape::OpenAi | ErrorShape::Azure | ErrorShape::DeepSeek => {
            serde_json::to_vec(&OpenAiList { object: "list", data })
        }
        ErrorShape::Anthropic => serde_json::to_vec(&AnthropicList {
            data,
            has_more: false,
            first_id: offered.first().map(|model| &*model.id),
            last_id: offered.last().map(|model| &*model.id),
        }),
    };
    Some(json.expect("lists of JSON serialise").into())
}

fn one(roster: &Roster, route: &Route, wanted: &str) -> Option<Arc<Offered>> {
    if route.azure_resource.is_some() {
        return all(roster, route).into_iter().find(|model| &*model.id == wanted);
    }
    let mut providers = route.candidates.iter().map(|candidate| candidate.endpoint.provider());
    providers.find_map(|provider| roster.model(provider, wanted))
}

/// The models of all candidate vendors, each id once, in the vendors' own order.
fn all(roster: &Roster, route: &Route) -> Vec<Arc<Offered>> {
    let mut offered = Vec::new();
    for candidate in &route.candidates {
        let provider = candidate.endpoint.provider();
        match &route.azure_resource {
            Some(resource) => offered.extend(roster.models_at(provider, resource)),
            None => offered.extend(roster.models(provider).iter().cloned()),
        }
    }
    let mut seen: HashSet<Arc<str>> = HashSet::new();
    offered.retain(|model| seen.insert(model.id.clone()));
    offered
}
