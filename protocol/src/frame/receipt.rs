//! RECEIPT: what the agent metered of a call. It goes right before the END of the answer, or
//! before the ABORT of one that broke off; once the hub has aborted the call, by itself.
//!
//! ```text
//! call 16 | attempt u8 | outcome u8 | rule u8 | doubts u16 | price version u32 | list nano-USD u64
//! | response bytes u64 | elapsed ms u32 | tier u8
//! | meters | model: length u16, UTF-8, at most 128, empty is none
//! | meters of what was heard | model that heard it, the same
//! meters: count u8, then for each: number u8, quantity u64, not 0, ascending by number
//! ```
//!
//! Invariant: it names no owner, no key and nothing of what was said.

use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;

use crate::id::CallId;
use crate::metering::Figure;
use crate::metering::Outcome;
use crate::metering::Rule;
use crate::money::NanoUsd;
use crate::price::ServiceTier;
use crate::ticket::Ticket;
use crate::usage::Doubts;
use crate::usage::Meter;
use crate::usage::Meters;

use super::wire::PayloadError;
use super::wire::Reader;
use super::wire::put_text;

/// The longest receipt, in bytes.
pub const RECEIPT_BYTES_MAX: usize = 1024;

/// The longest name of a model.
const MODEL_BYTES_MAX: usize = 128;

/// The payload of RECEIPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The call.
    pub call: CallId,
    /// The attempt at it, as its ticket numbers it.
    pub attempt: u8,
    /// The version of the price table that it was metered with.
    pub price_version: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// By which rule it is billed.
    pub rule: Rule,
    /// What makes that less than certain.
    pub doubts: Doubts,
    /// What it costs at list prices.
    pub list: NanoUsd,
    /// Bytes of the answer's body that left the agent.
    pub response_bytes: u64,
    /// The time that an estimate was made with, in milliseconds; else 0.
    pub elapsed_ms: u32,
    /// The class of service that it is billed in.
    pub tier: ServiceTier,
    /// What is billed.
    pub meters: Meters,
    /// The model that answered, as it names itself.
    pub model: Option<String>,
    /// Realtime: what is billed of the model that wrote down what was heard.
    pub heard: Meters,
    /// Realtime: that model.
    pub heard_model: Option<String>,
}

impl Receipt {
    /// The receipt of the attempt that this ticket ordered, metered so.
    pub fn new(ticket: &Ticket, figure: Figure) -> Self {
        let Figure { outcome, rule, doubts, list, response_bytes, elapsed_ms, tier, meters, heard, .. } = figure;
        let (model, heard_model) = (figure.model, figure.heard_model);
        Self {
            call: ticket.call,
            attempt: ticket.attempt,
            price_version: ticket.price_version,
            outcome,
            rule,
            doubts,
            list,
            response_bytes,
            elapsed_ms,
            tier,
            meters,
            model,
            heard,
            heard_model,
        }
    }

    /// The payload.
    ///
    /// # Errors
    /// When it costs less than nothing.
    pub fn encode(&self) -> Result<Bytes, PayloadError> {
        let mut out = BytesMut::with_capacity(160);
        out.put_slice(&self.call.0);
        out.put_u8(self.attempt);
        out.put_u8(self.outcome.number());
        out.put_u8(self.rule.number());
        out.put_u16(self.doubts.bits());
        out.put_u32(self.price_version);
        out.put_u64(u64::try_from(self.list.0).map_err(|_| PayloadError::Field("list"))?);
        out.put_u64(self.response_bytes);
        out.put_u32(self.elapsed_ms);
        out.put_u8(self.tier.number());
        put_meters(&mut out, &self.meters);
        put_text(&mut out, clipped(self.model.as_deref()));
        put_meters(&mut out, &self.heard);
        put_text(&mut out, clipped(self.heard_model.as_deref()));
        Ok(out.freeze())
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it does not follow the layout.
    pub fn decode(payload: Bytes) -> Result<Self, PayloadError> {
        let mut reader = Reader::new(payload);
        let call = CallId(reader.array()?);
        let attempt = reader.u8()?;
        let outcome = Outcome::from_number(reader.u8()?).ok_or(PayloadError::Field("outcome"))?;
        let rule = Rule::from_number(reader.u8()?).ok_or(PayloadError::Field("rule"))?;
        let doubts = Doubts::from_bits(reader.u16()?);
        let price_version = reader.u32()?;
        let list = i64::try_from(reader.u64()?).map_err(|_| PayloadError::Field("list"))?;
        let (response_bytes, elapsed_ms) = (reader.u64()?, reader.u32()?);
        let tier = ServiceTier::from_number(reader.u8()?).ok_or(PayloadError::Field("tier"))?;
        let (meters, model) = (read_meters(&mut reader)?, read_model(&mut reader)?);
        let (heard, heard_model) = (read_meters(&mut reader)?, read_model(&mut reader)?);
        reader.end()?;
        Ok(Self {
            call,
            attempt,
            price_version,
            outcome,
            rule,
            doubts,
            list: NanoUsd(list),
            response_bytes,
            elapsed_ms,
            tier,
            meters,
            model,
            heard,
            heard_model,
        })
    }
}

fn put_meters(out: &mut BytesMut, meters: &Meters) {
    out.put_u8(u8::try_from(meters.iter().count()).unwrap_or(u8::MAX));
    for (meter, quantity) in meters.iter() {
        out.put_u8(meter.number());
        out.put_u64(quantity);
    }
}

fn read_meters(reader: &mut Reader) -> Result<Meters, PayloadError> {
    let mut meters = Meters::default();
    let mut last = 0;
    for _ in 0..reader.u8()? {
        let (number, quantity) = (reader.u8()?, reader.u64()?);
        let meter = Meter::from_number(number).filter(|_| number > last && quantity > 0);
        meters.set(meter.ok_or(PayloadError::Field("meter"))?, quantity);
        last = number;
    }
    Ok(meters)
}

fn read_model(reader: &mut Reader) -> Result<Option<String>, PayloadError> {
    let model = reader.text("model")?;
    if model.len() > MODEL_BYTES_MAX {
        return Err(PayloadError::Field("model"));
    }
    Ok(Some(model).filter(|model| !model.is_empty()))
}

fn clipped(model: Option<&str>) -> &str {
    let model = model.unwrap_or_default();
    model.get(..model.floor_char_boundary(MODEL_BYTES_MAX)).unwrap_or_default()
}
