//! What is sent in the owner's name, read on its way to the vendor: the hub has read it
//! before, but the hub is not trusted with somebody else's account.
//!
//! Invariant: a request is complete only when every byte of it was read and found allowed.

use http::HeaderValue;
use keyhaven_protocol::demand::Demand;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::provider::policy::is_fine_tuned;
use keyhaven_protocol::request_scan::RequestScan;
use keyhaven_protocol::request_scan::ScanError;

/// The check of one request's body.
pub(super) struct Check {
    scan: RequestScan,
    /// The only models that the body may ask for, if not all.
    models: Option<Vec<String>>,
}

impl Check {
    /// The check of what goes to this endpoint, in this content type.
    pub(super) fn new(
        endpoint: Endpoint,
        content_type: Option<&HeaderValue>,
        models: Option<&[String]>,
    ) -> Result<Self, Abort> {
        let scan = RequestScan::new(endpoint, content_type).map_err(|error| refused(&error))?;
        Ok(Self { scan, models: models.map(<[String]>::to_vec) })
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Abort> {
        self.scan.feed(bytes).map_err(|error| refused(&error))
    }

    pub(super) fn finish(&mut self) -> Result<(), Abort> {
        self.scan.finish().map_err(|error| refused(&error))?;
        allow_model(self.scan.model(), self.models.as_deref())
    }

    /// What the body asks for, once it is finished.
    pub(super) fn demand(&self) -> Demand {
        self.scan.demand()
    }

    /// The model that it names.
    pub(super) fn model(&self) -> Option<&str> {
        self.scan.model()
    }
}

/// Whether this model may be asked for.
pub(super) fn allow_model(model: Option<&str>, only: Option<&[String]>) -> Result<(), Abort> {
    if model.is_some_and(is_fine_tuned) {
        return Err(not_allowed("fine-tuned models are the owner's own"));
    }
    match only {
        Some(only) if !model.is_some_and(|model| only.iter().any(|name| name == model)) => {
            Err(not_allowed("the deployment is not offered"))
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) fn not_allowed(why: &str) -> Abort {
    Abort::with_detail(AbortReason::NotAllowed, why)
}

fn refused(error: &ScanError) -> Abort {
    not_allowed(&error.to_string())
}
