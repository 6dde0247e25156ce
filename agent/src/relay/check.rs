//! What is sent in the owner's name, read on its way to the vendor: the hub has read it
//! before, but the hub is not trusted with somebody else's account.
//!
//! Invariant: a request is complete only when every byte of it was read and found allowed.

use std::sync::Arc;

use http::HeaderValue;
use keyhaven_protocol::demand::Demand;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::provider::policy::is_fine_tuned;
use keyhaven_protocol::request_scan::RequestScan;
use keyhaven_protocol::request_scan::ScanError;

use crate::vault::key::KeyInfo;

/// The check of one request's body.
pub(super) struct Check {
    scan: RequestScan,
    /// The only models that the body may ask for, if not all.
    models: Option<Vec<String>>,
    /// The model that the call is sold as, and the key whose deployments stand for models.
    sold_as: Option<(Arc<KeyInfo>, String)>,
}

impl Check {
    /// The check of what goes to this endpoint, in this content type.
    pub(super) fn new(
        endpoint: Endpoint,
        content_type: Option<&HeaderValue>,
        models: Option<&[String]>,
    ) -> Result<Self, Abort> {
        let scan = RequestScan::new(endpoint, content_type).map_err(|error| refused(&error))?;
        Ok(Self { scan, models: models.map(<[String]>::to_vec), sold_as: None })
    }

    /// From now on the body has to ask for this model, or for a deployment of it.
    pub(super) fn sold_as(&mut self, key: &Arc<KeyInfo>, model: &str) {
        self.sold_as = Some((key.clone(), model.to_owned()));
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Abort> {
        self.scan.feed(bytes).map_err(|error| refused(&error))
    }

    pub(super) fn finish(&mut self) -> Result<(), Abort> {
        self.scan.finish().map_err(|error| refused(&error))?;
        allow_model(self.scan.model(), self.models.as_deref())?;
        match &self.sold_as {
            Some((key, model)) => is_sold_as(key, self.scan.model().unwrap_or_default(), Some(model)),
            None => Ok(()),
        }
    }

    /// What the body asks for, once it is finished.
    pub(super) fn demand(&self) -> Demand {
        self.scan.demand()
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

/// Whether this name is that of the model that the call is sold as: the hub is not trusted to sell
/// a dear one at the price of another.
pub(super) fn is_sold_as(key: &KeyInfo, name: &str, sold_as: Option<&str>) -> Result<(), Abort> {
    match sold_as {
        Some(model) if key.model_behind(name) != model => {
            Err(Abort::with_detail(AbortReason::TicketInvalid, "the request asks for another model than was ordered"))
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
