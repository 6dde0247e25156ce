//! The request to the vendor, built from the agent's own tables.
//!
//! Invariant: host and path come from the vault and the endpoint's template; of what the
//! hub sent only a checked parameter, a checked query and filtered headers go in.

use std::sync::Arc;

use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Uri;
use http::header;
use http::uri::PathAndQuery;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::provider::endpoint::BodyKind;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::provider::headers::request_to_vendor;
use keyhaven_protocol::provider::policy::check_head;
use keyhaven_protocol::provider::policy::model_of_query;
use keyhaven_protocol::provider::websocket::Upgrade;
use keyhaven_protocol::provider::websocket::offer_of;
use keyhaven_protocol::request_scan::SessionScan;
use secrecy::ExposeSecret as _;

use super::check::Check;
use super::check::allow_model;
use super::check::is_sold_as;
use super::check::not_allowed;
use super::upload::CallBody;
use super::upload::Upload;
use crate::vault::Vault;
use crate::vault::key::KeyInfo;

/// A request that may be sent.
pub(super) struct VendorRequest {
    pub(super) key: Arc<KeyInfo>,
    pub(super) request: Request<Box<CallBody>>,
    pub(super) upload: Upload,
    /// What the vendor is to agree to before the connection becomes a WebSocket.
    pub(super) upgrade: Option<WantedUpgrade>,
}

/// A WebSocket that the consumer wants.
pub(super) struct WantedUpgrade {
    /// What the vendor must agree to.
    pub(super) handshake: Upgrade,
    /// The judge of what the consumer will say.
    pub(super) scan: SessionScan,
}

/// Builds the request of a call that is sold as this model, or says why it is refused.
pub(super) fn build(
    vault: &Vault,
    stream: &LinkStream,
    open: &OpenHead,
    sold_as: Option<&str>,
) -> Result<VendorRequest, Abort> {
    let endpoint = Endpoint::from_number(open.endpoint).filter(|endpoint| !endpoint.served_by_hub());
    let endpoint = endpoint.ok_or_else(|| not_allowed("the endpoint is not on the allow-list"))?;
    let unknown = || Abort::new(AbortReason::OfferUnknown);
    let key =
        vault.shared_info(open.vendor_key).filter(|key| key.provider == endpoint.provider()).ok_or_else(unknown)?;
    let uri = uri(&key, endpoint, open, sold_as)?;
    let check = check(endpoint, &key, open, sold_as)?;
    let mut headers = request_to_vendor(endpoint, &open.headers);
    let upgrade = upgrade(endpoint, &mut headers)?;
    let secret = vault.open_key(key.id, &key.host).map_err(|_| unknown())?;
    let (name, value) = endpoint.auth().header(secret.expose_secret()).map_err(|_| unknown())?;
    headers.insert(header::HOST, HeaderValue::from_str(&key.host).map_err(|_| unknown())?);
    headers.insert(name, value);
    if let BodyLength::Known(length) = open.body {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }

    let (body, upload) = CallBody::new(stream, open.body, check);
    // It is handed on several times before it is sent.
    let mut request = Request::new(Box::new(body));
    *request.method_mut() = endpoint.method();
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(VendorRequest { key, request, upload, upgrade })
}

fn uri(key: &KeyInfo, endpoint: Endpoint, open: &OpenHead, sold_as: Option<&str>) -> Result<Uri, Abort> {
    let query = open.query.as_deref();
    check_head(endpoint, query, &open.headers).map_err(|error| not_allowed(&error.to_string()))?;
    let asked = model_of_query(endpoint, query).map_err(|error| not_allowed(&error.to_string()))?;
    if let Some(deployment) = open.parameter.as_deref().or(asked.as_deref()) {
        allow_model(Some(deployment), offered(key).as_deref())?;
        is_sold_as(key, deployment, sold_as)?;
    }
    let path = endpoint.vendor_path(open.parameter.as_deref());
    let path = path.ok_or_else(|| not_allowed("the path's parameter is not allowed"))?;
    let target = match query {
        None => path,
        Some(query) => format!("{path}?{query}"),
    };
    let target = PathAndQuery::from_maybe_shared(target);
    target.map(Uri::from).map_err(|_| not_allowed("the path or query is no URL"))
}

/// The only models that may be asked for: Azure's deployments, where the owner named some.
fn offered(key: &KeyInfo) -> Option<Vec<String>> {
    let names = || key.deployments.iter().map(|deployment| deployment.name().to_owned()).collect();
    (!key.deployments.is_empty()).then(names)
}

/// The check of the body; a body that is empty is judged at once.
fn check(endpoint: Endpoint, key: &Arc<KeyInfo>, open: &OpenHead, sold_as: Option<&str>) -> Result<Check, Abort> {
    // Where path or query name the deployment, the body's model means nothing to the vendor.
    let in_body = !endpoint.has_parameter() && endpoint.body() != BodyKind::WebSocket;
    let models = offered(key).filter(|_| in_body);
    let mut check = Check::new(endpoint, open.headers.get(header::CONTENT_TYPE), models.as_deref())?;
    if let Some(model) = sold_as.filter(|_| in_body) {
        check.sold_as(key, model);
    }
    let fits = match (endpoint.body(), open.body) {
        (BodyKind::WebSocket, length) => length == BodyLength::Upgrade,
        (BodyKind::Empty, length) => length == BodyLength::None,
        (BodyKind::Json | BodyKind::Multipart | BodyKind::JsonOrMultipart, BodyLength::None | BodyLength::Known(0)) => {
            check.finish()?;
            true
        }
        (BodyKind::Json | BodyKind::Multipart | BodyKind::JsonOrMultipart, length) => length != BodyLength::Upgrade,
    };
    if fits { Ok(check) } else { Err(not_allowed("the endpoint takes another kind of body")) }
}

/// The handshake of a WebSocket endpoint; the headers of the connection itself are made anew.
fn upgrade(endpoint: Endpoint, headers: &mut HeaderMap) -> Result<Option<WantedUpgrade>, Abort> {
    if endpoint.body() != BodyKind::WebSocket {
        return Ok(None);
    }
    let handshake = offer_of(headers).map_err(|error| not_allowed(&error.to_string()))?;
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    Ok(Some(WantedUpgrade { handshake, scan: SessionScan::new(endpoint) }))
}
