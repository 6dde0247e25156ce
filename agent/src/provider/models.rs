//! The models a key lists, asked of the vendor itself: what an offer says, and the test
//! whether a key works. It costs nothing at any vendor.
//!
//! Invariant: what would name the owner (fine-tuned models and who owns them) stays here.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderValue;
use http::Request;
use http::StatusCode;
use http::header;
use http_body_util::Empty;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::provider::endpoint::Endpoint;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::cause::deepest;
use super::client::VendorClient;
use super::egress::Egress;
use crate::vault::Vault;
use crate::vault::error::VaultError;
use crate::vault::host::Deployment;
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
    /// The vendor accepts the key, but the key has no right to list models.
    #[error("the vendor answered {0}: the key may not list models")]
    MayNotList(StatusCode),
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
            ListError::MayNotList(_) => {
                Self::new(ErrorCode::VendorRefusedKey, error.to_string()).fix("give the key the right to list models")
            }
            ListError::Unreachable(why) => Self::new(ErrorCode::VendorUnreachable, why),
            ListError::Vault(error) => error.into(),
        }
    }
}

/// What came of trying a key that its vendor accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestedKey {
    /// The ids of the models that it lists.
    Lists(Vec<String>),
    /// It has no right to list models; what it can call is not known.
    MayNotList,
}

/// Tries a key of the vault: asks its vendor for the models.
///
/// # Errors
/// A [`Failure`] inside: the key is unknown, the vendor refuses it or cannot be reached.
pub async fn test_key(egress: &Egress, vault: &Vault, id: VendorKeyId) -> anyhow::Result<TestedKey> {
    let info = vault.key_info(id).ok_or_else(|| Failure::new(ErrorCode::VaultKeyUnknown, id.to_string()))?;
    let secret = vault.open_key(id, &info.host).map_err(Failure::from)?;
    let client = VendorClient::new(egress, CONNECT_TIME_MAX);
    let models = match list_models(&client, &info, &secret).await {
        Err(ListError::MayNotList(_)) => return Ok(TestedKey::MayNotList),
        listed => listed.map_err(Failure::from)?,
    };
    Ok(TestedKey::Lists(models.iter().filter_map(|model| Named::read(model)).map(|named| named.id).collect()))
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
        return Ok(declared_models(key));
    }
    let list: List = serde_json::from_slice(&body)
        .map_err(|_| ListError::Unreachable("the list of models cannot be read".to_owned()))?;
    Ok(list.data.into_iter().filter(|model| Named::read(model).is_some_and(|named| named.is_public())).collect())
}

/// The models that the owner named with the key, whatever its vendor says: Azure's
/// deployments.
pub fn declared_models(key: &KeyInfo) -> Vec<Box<RawValue>> {
    key.deployments.iter().filter_map(deployment).collect()
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
        .uri(format!("{}{query}", endpoint.template()))
        .header(header::HOST, &key.host)
        .header(name, value)
        .header("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION))
        .body(Empty::new())
        .map_err(|error| unreachable(&error))?;
    let asked = async {
        let sent = client.send(&key.host, request).await;
        let (mut connection, response) = sent.map_err(|error| unreachable(&deepest(&error)))?;
        match response.status() {
            StatusCode::OK => {}
            status @ StatusCode::UNAUTHORIZED => return Err(ListError::Rejected(status)),
            // A key of least privilege serves calls all the same.
            status @ StatusCode::FORBIDDEN => return Err(ListError::MayNotList(status)),
            status => return Err(ListError::Unreachable(format!("the vendor answered {status}"))),
        }
        let (mut body, mut list) = (response.into_body(), BytesMut::new());
        while let Some(frame) = poll_fn(|cx| connection.poll_frame(&mut body, cx)).await {
            let data = frame.map_err(|error| unreachable(&deepest(&error)))?.into_data().unwrap_or_default();
            if list.len() + data.len() > ANSWER_BYTES_MAX {
                return Err(ListError::Unreachable("the list of models is too long".to_owned()));
            }
            list.extend_from_slice(&data);
        }
        Ok(list.freeze())
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

fn deployment(deployment: &Deployment) -> Option<Box<RawValue>> {
    let object = serde_json::json!({ "id": deployment.name(), "object": "model", "model": deployment.model() });
    RawValue::from_string(object.to_string()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::fake_vendor::FakeVendor;
    use crate::vault::host::Account;
    use crate::vault::key::Attestation;
    use crate::vault::key::NewKey;
    use crate::vault::unlock::Unlock;

    #[test]
    fn what_names_the_owner_is_not_public() {
        let public = |json: &str| serde_json::from_str::<Named>(json).unwrap().is_public();

        assert!(public(r#"{"id":"gpt-5","owned_by":"system"}"#));
        assert!(public(r#"{"id":"claude-x","type":"model"}"#));
        assert!(!public(r#"{"id":"ft:gpt-4o:acme::abc","owned_by":"acme"}"#));
        assert!(!public(r#"{"id":"curie","owned_by":"org-123"}"#));
        assert!(!public(r#"{"id":"curie","owned_by":"user-123"}"#));
    }

    #[tokio::test]
    async fn a_key_that_may_not_list_models_is_accepted_and_one_that_is_not_is_refused() {
        let house = House::new().await;

        let (listed, ()) =
            tokio::join!(house.test_key(), house.vendor.answer_one("200 OK", r#"{"data":[{"id":"gpt-5"}]}"#));
        let (least, ()) = tokio::join!(house.test_key(), house.vendor.answer_one("403 Forbidden", "{}"));
        let (refused, ()) = tokio::join!(house.test_key(), house.vendor.answer_one("401 Unauthorized", "{}"));
        let (broken, ()) = tokio::join!(house.test_key(), house.vendor.answer_one("500 Oops", "{}"));

        assert_eq!(listed.unwrap(), TestedKey::Lists(vec!["gpt-5".to_owned()]));
        assert_eq!(least.unwrap(), TestedKey::MayNotList);
        assert_eq!(code(&refused.unwrap_err()), ErrorCode::VendorRefusedKey);
        assert_eq!(code(&broken.unwrap_err()), ErrorCode::VendorUnreachable);
    }

    #[tokio::test]
    async fn a_vendor_that_cannot_be_reached_is_told_with_the_innermost_cause() {
        let mut house = House::new().await;
        house.vendor.close().await;

        let error = house.test_key().await.unwrap_err();

        assert_eq!(code(&error), ErrorCode::VendorUnreachable);
        assert!(error.to_string().to_lowercase().contains("connection refused"), "{error}");
    }

    fn code(error: &anyhow::Error) -> ErrorCode {
        error.downcast_ref::<Failure>().unwrap().code()
    }

    /// A vault with one key, and its vendor.
    struct House {
        _dir: tempfile::TempDir,
        vault: Vault,
        key: VendorKeyId,
        vendor: FakeVendor,
    }

    impl House {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut vault = Vault::create(dir.path(), &Unlock::KeyFile).unwrap();
            let new = NewKey {
                account: Account::OpenAi,
                label: String::new(),
                secret: SecretString::from("sk-0123456789"),
                attestation: Some(Attestation { text: "mine".to_owned(), at_unix_ms: 0 }),
                added_unix_ms: 0,
            };
            let key = vault.add_key(new).unwrap().id;
            Self { _dir: dir, vault, key, vendor: FakeVendor::listen().await }
        }

        async fn test_key(&self) -> anyhow::Result<TestedKey> {
            test_key(&self.vendor.egress(), &self.vault, self.key).await
        }
    }
}
