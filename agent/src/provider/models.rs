//! The models a key lists, asked of the vendor itself: what an offer says, and the test
//! whether a key works. It costs nothing at any vendor.
//!
//! Invariant: what would name the owner (fine-tuned models and who owns them) stays here.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::Request;
use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::Limited;
use keyhaven_daemon::cli::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::provider::endpoint::Endpoint;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::connector::VendorClient;
use super::egress::Egress;
use crate::vault::Vault;
use crate::vault::error::VaultError;
use crate::vault::key::KeyInfo;

const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// The version of Anthropic's API that the list is asked with.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// Why a key's models are not known.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The vendor does not accept the key.
    #[error("the vendor answered {0}")]
    Rejected(StatusCode),
    /// The vendor cannot be asked now.
    #[error("{0}")]
    Unreachable(String),
    /// The key cannot be used.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl From<ListError> for Failure {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Rejected(status) => Self::new(ErrorCode::VendorRefusedKey, format!("it answered {status}")),
            ListError::Unreachable(why) => Self::new(ErrorCode::VendorUnreachable, why),
            ListError::Vault(error) => error.into(),
        }
    }
}

/// The ids of the models that a key of the vault lists.
///
/// # Errors
/// A [`Failure`] inside: the key is unknown, the vendor refuses it or cannot be reached.
pub async fn test_key(egress: &Egress, vault: &Vault, id: VendorKeyId) -> anyhow::Result<Vec<String>> {
    let info = vault.keys().into_iter().find(|key| key.id == id);
    let info = info.ok_or_else(|| Failure::new(ErrorCode::VaultKeyUnknown, id.to_string()))?;
    let secret = vault.open_key(id, &info.host).map_err(Failure::from)?;
    let client = VendorClient::new(egress, CONNECT_TIME_MAX);
    let models = list_models(&client, &info, &secret).await.map_err(Failure::from)?;
    Ok(models.iter().filter_map(|model| Named::read(model)).map(|named| named.id).collect())
}

/// The vendor's own objects of the models this key may call, in the vendor's order.
/// Azure: one per deployment the owner named, since its API does not list them; the key
/// is tested all the same.
///
/// # Errors
/// When the vendor refuses the key or cannot be asked.
pub async fn list_models(
    client: &VendorClient<Empty<Bytes>>,
    key: &KeyInfo,
    secret: &SecretString,
) -> Result<Vec<Box<RawValue>>, ListError> {
    let (endpoint, query) = match key.provider {
        Provider::OpenAi => (Endpoint::OpenAiModels, ""),
        Provider::Azure => (Endpoint::AzureModels, ""),
        Provider::Anthropic => (Endpoint::AnthropicModels, "?limit=1000"),
        Provider::DeepSeek => (Endpoint::DeepSeekModels, ""),
    };
    let body = ask(client, key, secret, endpoint, query).await?;
    if key.provider == Provider::Azure {
        return Ok(key.deployments.iter().filter_map(|name| deployment(name)).collect());
    }
    let list: List = serde_json::from_slice(&body)
        .map_err(|_| ListError::Unreachable("the list of models cannot be read".to_owned()))?;
    Ok(list.data.into_iter().filter(|model| Named::read(model).is_some_and(|named| named.is_public())).collect())
}

async fn ask(
    client: &VendorClient<Empty<Bytes>>,
    key: &KeyInfo,
    secret: &SecretString,
    endpoint: Endpoint,
    query: &str,
) -> Result<Bytes, ListError> {
    let unreachable = |error: &dyn std::fmt::Display| ListError::Unreachable(error.to_string());
    let (name, value) = endpoint.auth().header(secret.expose_secret()).map_err(|error| unreachable(&error))?;
    let request = Request::builder()
        .uri(format!("https://{}{}{query}", key.host, endpoint.template()))
        .header(name, value)
        .header("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION))
        .body(Empty::new())
        .map_err(|error| unreachable(&error))?;
    let asked = async {
        let response = client.send(request).await.map_err(|error| unreachable(&error))?;
        match response.status() {
            StatusCode::OK => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => return Err(ListError::Rejected(status)),
            status => return Err(ListError::Unreachable(format!("the vendor answered {status}"))),
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(body.map_err(|error| unreachable(&error))?.to_bytes())
    };
    let late = |_| ListError::Unreachable("the vendor did not answer in time".to_owned());
    tokio::time::timeout(ANSWER_TIME_MAX, asked).await.map_err(late)?
}

#[derive(Deserialize)]
struct List {
    data: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
    #[serde(default)]
    owned_by: Option<String>,
}

impl Named {
    fn read(model: &RawValue) -> Option<Self> {
        serde_json::from_str(model.get()).ok()
    }

    /// Fine-tuned models carry the owner's organisation in their id and in `owned_by`,
    /// and may not be shared anyway.
    fn is_public(&self) -> bool {
        let owner = self.owned_by.as_deref().unwrap_or("");
        !self.id.starts_with("ft:") && !owner.starts_with("org-") && !owner.starts_with("user-")
    }
}

fn deployment(name: &str) -> Option<Box<RawValue>> {
    let object = serde_json::json!({ "id": name, "object": "model" });
    RawValue::from_string(object.to_string()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_the_owner_is_not_public() {
        let public = |json: &str| serde_json::from_str::<Named>(json).unwrap().is_public();

        assert!(public(r#"{"id":"gpt-5","owned_by":"system"}"#));
        assert!(public(r#"{"id":"claude-x","type":"model"}"#));
        assert!(!public(r#"{"id":"ft:gpt-4o:acme::abc","owned_by":"acme"}"#));
        assert!(!public(r#"{"id":"curie","owned_by":"org-123"}"#));
        assert!(!public(r#"{"id":"curie","owned_by":"user-123"}"#));
    }
}
