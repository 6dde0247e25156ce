//! What routing and policy must know of a request's body, read from the bytes as they pass.
//!
//! Invariant: a field that routing or the price relies on stands once, with a value that is
//! allowed for it, or the request is refused; no byte is changed, and the memory is bounded
//! whatever the body.

mod content_type;
mod error;
mod judge;
mod multipart;
mod params;
mod part_head;
mod session;
mod tally;
mod usage_place;
mod value;

use crate::demand::Demand;
use crate::json_scan::Event;
use crate::json_scan::JsonError;
use crate::json_scan::JsonScan;
use crate::json_scan::Spot;
use crate::provider::endpoint::Endpoint;
use crate::provider::policy::field::Vendors;
use crate::provider::policy::form::Form;
use crate::provider::route::Candidate;
use content_type::Reading;
use content_type::reading;
use http::HeaderValue;
use judge::Judge;
use multipart::MultipartScan;
use multipart::PartEvent;

pub use error::ScanError;
pub use session::SessionScan;
pub use usage_place::UsagePlace;
pub use value::MODEL_BYTES_MAX;

/// The scan of one request's body.
#[derive(Debug, Clone)]
pub struct RequestScan {
    reader: Reader,
    judge: Judge,
    failed: Option<ScanError>,
}

/// How the body is read.
#[derive(Debug, Clone)]
enum Reader {
    Nothing,
    Json(Box<JsonScan>),
    Multipart(MultipartScan, PartText),
}

/// The text of the part of a form that is being read.
#[derive(Debug, Clone, Default)]
struct PartText {
    /// Its field, by its place in the form's table.
    field: Option<usize>,
    /// At most one byte beyond [`MODEL_BYTES_MAX`].
    bytes: Vec<u8>,
}

impl RequestScan {
    /// A scan of a body for this endpoint.
    ///
    /// # Errors
    /// When the endpoint does not take a body of this content type.
    pub fn new(endpoint: Endpoint, content_type: Option<&HeaderValue>) -> Result<Self, ScanError> {
        Self::of(endpoint, Vendors::one(endpoint.provider()), content_type)
    }

    /// A scan while several endpoints may still be meant: only the model says which. It
    /// refuses what all of them refuse; call [`Self::agree`] as soon as the one is known.
    /// Candidates share a path, and with it the form of the body.
    ///
    /// # Errors
    /// When there is no candidate, or they do not take a body of this content type.
    pub fn for_candidates(candidates: &[Candidate], content_type: Option<&HeaderValue>) -> Result<Self, ScanError> {
        let first = candidates.first().ok_or(ScanError::NotACandidate)?.endpoint;
        let vendors = candidates.iter().map(|candidate| Vendors::one(candidate.endpoint.provider()));
        Self::of(first, vendors.fold(Vendors::NONE, Vendors::and), content_type)
    }

    fn of(first: Endpoint, meant: Vendors, content_type: Option<&HeaderValue>) -> Result<Self, ScanError> {
        let reader = match reading(first.body(), content_type)? {
            Reading::Nothing => Reader::Nothing,
            Reading::Json => Reader::Json(Box::default()),
            Reading::Multipart(boundary) => Reader::Multipart(MultipartScan::new(&boundary), PartText::default()),
        };
        Ok(Self { reader, judge: Judge::new(Form::of(first), first.provider(), meant), failed: None })
    }

    /// Says which of the candidates is meant. From now on the scan judges as one made for
    /// that endpoint alone; what was read before is judged here.
    ///
    /// # Errors
    /// When the endpoint refuses what was read before, or was no candidate.
    pub fn agree(&mut self, endpoint: Endpoint) -> Result<(), ScanError> {
        let Self { judge, failed, .. } = self;
        once(failed, || judge.agree(Form::of(endpoint), endpoint.provider()))
    }

    /// Reads the next bytes of the body.
    ///
    /// # Errors
    /// When the request must be refused; from then on always.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        let Self { reader, judge, failed } = self;
        once(failed, || match reader {
            Reader::Nothing if bytes.is_empty() => Ok(()),
            Reader::Nothing => Err(ScanError::BodyUnexpected),
            Reader::Json(json) => {
                let mut refusal = Ok(());
                let outcome = json.feed(bytes, |spot, event| keep_first(&mut refusal, judge, spot, &event));
                first(refusal, outcome)
            }
            Reader::Multipart(form, text) => form.feed(bytes, |event| text.take(judge, event)),
        })
    }

    /// Says that the body has ended.
    ///
    /// # Errors
    /// When it is not complete, or was refused before.
    pub fn finish(&mut self) -> Result<(), ScanError> {
        let Self { reader, judge, failed } = self;
        once(failed, || match reader {
            Reader::Nothing => Ok(()),
            Reader::Json(json) => {
                let mut refusal = Ok(());
                let outcome = json.finish(|spot, event| keep_first(&mut refusal, judge, spot, &event));
                first(refusal, outcome)
            }
            Reader::Multipart(form, _) => form.finish().and_then(|()| judge.end()),
        })
    }

    /// The model, as soon as it was read.
    pub fn model(&self) -> Option<&str> {
        self.judge.model()
    }

    /// Whether a stream is asked for; `None` when the body does not say so
    /// (yet), or says `null`.
    pub const fn stream(&self) -> Option<bool> {
        self.judge.stream()
    }

    /// What the request asks for at most, as far as it was read: all of it, once
    /// [`Self::finish`] succeeded. What was not read yet is taken as not asked for.
    pub fn demand(&self) -> Demand {
        self.judge.demand()
    }

    /// Where the body says, or could say, that a stream is to state its usage; `None` as
    /// long as that is not known, and where nothing of the kind can be said.
    pub fn usage_place(&self) -> Option<UsagePlace> {
        self.judge.usage_place()
    }
}

/// Makes a refusal final.
fn once(failed: &mut Option<ScanError>, read: impl FnOnce() -> Result<(), ScanError>) -> Result<(), ScanError> {
    if let Some(error) = failed {
        return Err(error.clone());
    }
    let result = read();
    if let Err(error) = &result {
        *failed = Some(error.clone());
    }
    result
}

/// Shows the judge an event, unless it has refused an earlier one.
#[inline]
fn keep_first(refusal: &mut Result<(), ScanError>, judge: &mut Judge, spot: Spot, event: &Event<'_>) {
    if refusal.is_ok() {
        *refusal = judge.take(spot, event);
    }
}

/// What the judge refused came before what the reader refused.
fn first(refusal: Result<(), ScanError>, outcome: Result<(), JsonError>) -> Result<(), ScanError> {
    refusal.and(outcome.map_err(ScanError::from))
}

impl PartText {
    fn take(&mut self, judge: &mut Judge, event: PartEvent<'_>) -> Result<(), ScanError> {
        match event {
            PartEvent::Begin(head) => {
                self.bytes.clear();
                self.field = judge.part(head)?;
            }
            PartEvent::Data(data) => {
                judge.part_data(data.len());
                if self.field.is_none() {
                    return Ok(());
                }
                let room = (MODEL_BYTES_MAX + 1).saturating_sub(self.bytes.len()).min(data.len());
                self.bytes.extend_from_slice(data.get(..room).unwrap_or_default());
            }
            PartEvent::End => {
                let Some(at) = self.field.take() else { return Ok(()) };
                let text = std::str::from_utf8(&self.bytes).ok().filter(|text| text.len() <= MODEL_BYTES_MAX);
                return judge.part_text(at, text);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod demand_tests;
#[cfg(test)]
mod refused_tests;
#[cfg(test)]
mod served_tests;
#[cfg(test)]
mod tests;
