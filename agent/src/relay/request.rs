//! The request to the vendor, built from the agent's own tables.
//!
//! Invariant: host and path come from the vault and the endpoint's template; of what the
//! hub sent only a checked parameter, the query and filtered headers go in.

use http::HeaderValue;
use http::Request;
use http::Uri;
use http::Version;
use http::header;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::provider::endpoint::BodyKind;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::provider::endpoint::is_allowed_query;
use keyhaven_protocol::provider::headers::request_to_vendor;
use secrecy::ExposeSecret as _;

use super::body::CallBody;
use super::body::Progress;
use crate::vault::Vault;
use crate::vault::key::KeyInfo;

/// Builds the request, or says why the call is refused.
pub(super) fn build(
    vault: &Vault,
    stream: &LinkStream,
    open: OpenHead,
) -> Result<(Request<CallBody>, Progress), Abort> {
    let endpoint = Endpoint::from_number(open.endpoint).filter(|endpoint| !endpoint.served_by_hub());
    let endpoint = endpoint.ok_or_else(|| not_allowed("the endpoint is not on the allow-list"))?;
    if endpoint.body() == BodyKind::WebSocket {
        return Err(not_allowed("realtime is not served by this agent"));
    }
    let key = vault.key_info(open.vendor_key).filter(|key| key.provider == endpoint.provider());
    let key = key.ok_or_else(|| Abort::new(AbortReason::OfferUnknown))?;
    if open.body == BodyLength::Upgrade {
        return Err(not_allowed("this endpoint is no WebSocket"));
    }
    let uri = uri(&key, endpoint, &open)?;
    let secret = vault.open_key(key.id, &key.host).map_err(|_| Abort::new(AbortReason::OfferUnknown))?;
    let (name, value) =
        endpoint.auth().header(secret.expose_secret()).map_err(|_| Abort::new(AbortReason::OfferUnknown))?;

    let (body, progress) = CallBody::new(stream, open.body);
    let mut request = Request::new(body);
    *request.method_mut() = endpoint.method();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = request_to_vendor(endpoint, &open.headers);
    request.headers_mut().insert(name, value);
    if let BodyLength::Known(length) = open.body {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok((request, progress))
}

fn uri(key: &KeyInfo, endpoint: Endpoint, open: &OpenHead) -> Result<Uri, Abort> {
    let hidden =
        !key.deployments.is_empty() && open.parameter.as_ref().is_some_and(|name| !key.deployments.contains(name));
    if hidden {
        return Err(not_allowed("the deployment is not offered"));
    }
    let path = endpoint.vendor_path(open.parameter.as_deref());
    let path = path.ok_or_else(|| not_allowed("the path's parameter is not allowed"))?;
    let target = match open.query.as_deref() {
        None => path,
        Some(query) if is_allowed_query(query) => format!("{path}?{query}"),
        Some(_) => return Err(not_allowed("the query is not allowed")),
    };
    let uri = Uri::builder().scheme("https").authority(key.host.as_str()).path_and_query(target).build();
    uri.map_err(|_| not_allowed("the path or query is no URL"))
}

fn not_allowed(why: &str) -> Abort {
    Abort::with_detail(AbortReason::NotAllowed, why)
}
