//! A figure as it stands in leaves.
//!
//! ```text
//! [outcome u8, rule u8, estimated, doubts u16, tier u8, model: text of at most 128 bytes | null, [meter u8, quantity u64, ...],
//!  model that wrote down what was heard | null, [its meters], list nano-USD u64, response bytes u64, elapsed ms u32]
//! ```
//!
//! Invariant: meters are each once, by number, and none is 0; a cost is never below 0.

use crate::cbor::CborError;
use crate::cbor::Reader;
use crate::cbor::Writer;
use crate::metering::Figure;
use crate::metering::Outcome;
use crate::metering::Rule;
use crate::money::NanoUsd;
use crate::price::ServiceTier;
use crate::usage::Doubts;
use crate::usage::Meter;
use crate::usage::Meters;

/// The longest name of a model that answered, in bytes.
const MODEL_BYTES_MAX: usize = 128;

const FIELDS: usize = 12;

/// What one side metered of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metered {
    /// What became of it.
    pub outcome: Outcome,
    /// By which rule it is billed; the rule also says whether part of it is an estimate.
    pub rule: Rule,
    /// What makes that less than certain.
    pub doubts: Doubts,
    /// The class of service that it is billed in.
    pub tier: ServiceTier,
    /// The model that answered, as it names itself.
    pub model: Option<String>,
    /// What is billed.
    pub meters: Meters,
    /// Realtime: the model that wrote down what was heard.
    pub heard_model: Option<String>,
    /// Realtime: what is billed of it.
    pub heard: Meters,
    /// What it costs at list prices.
    pub list: NanoUsd,
    /// Bytes of the answer's body that this is made from.
    pub response_bytes: u64,
    /// The time that an estimate was made with, in milliseconds; else 0.
    pub elapsed_ms: u32,
}

impl From<&Figure> for Metered {
    fn from(figure: &Figure) -> Self {
        Self {
            outcome: figure.outcome,
            rule: figure.rule,
            doubts: figure.doubts,
            tier: figure.tier,
            model: figure.model.as_deref().map(clipped),
            meters: figure.meters,
            heard_model: figure.heard_model.as_deref().map(clipped),
            heard: figure.heard,
            list: figure.list.max(NanoUsd::ZERO),
            response_bytes: figure.response_bytes,
            elapsed_ms: figure.elapsed_ms,
        }
    }
}

impl Metered {
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.array(FIELDS).unsigned(self.outcome.number()).unsigned(self.rule.number());
        writer.boolean(self.rule.is_estimate()).unsigned(self.doubts.bits()).unsigned(self.tier.number());
        write_model(writer, self.model.as_deref());
        write_meters(writer, &self.meters);
        write_model(writer, self.heard_model.as_deref());
        write_meters(writer, &self.heard);
        writer.signed(self.list.0).unsigned(self.response_bytes).unsigned(self.elapsed_ms);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        reader.array_of(FIELDS, "figure")?;
        let outcome = Outcome::from_number(reader.unsigned("outcome")?).ok_or(CborError::Field("outcome"))?;
        let rule = Rule::from_number(reader.unsigned("rule")?).ok_or(CborError::Field("rule"))?;
        if reader.boolean("estimated")? != rule.is_estimate() {
            return Err(CborError::Field("estimated"));
        }
        let doubts = Doubts::from_bits(reader.unsigned("doubts")?);
        let tier = ServiceTier::from_number(reader.unsigned("tier")?).ok_or(CborError::Field("tier"))?;
        let (model, meters) = (read_model(reader)?, read_meters(reader)?);
        let (heard_model, heard) = (read_model(reader)?, read_meters(reader)?);
        let list = read_amount(reader, "list")?;
        let (response_bytes, elapsed_ms) = (reader.unsigned("response bytes")?, reader.unsigned("elapsed")?);
        Ok(Self { outcome, rule, doubts, tier, model, meters, heard_model, heard, list, response_bytes, elapsed_ms })
    }
}

/// An amount that is not below 0.
pub(crate) fn read_amount(reader: &mut Reader<'_>, field: &'static str) -> Result<NanoUsd, CborError> {
    reader.unsigned::<u64>(field)?.try_into().map(NanoUsd).map_err(|_| CborError::Field(field))
}

pub(crate) fn write_meters(writer: &mut Writer, meters: &Meters) {
    writer.array(2 * meters.iter().count());
    for (meter, quantity) in meters.iter() {
        writer.unsigned(meter.number()).unsigned(quantity);
    }
}

pub(crate) fn read_meters(reader: &mut Reader<'_>) -> Result<Meters, CborError> {
    let items = reader.array(2 * Meter::ALL.len(), "meters")?;
    let (mut meters, mut last) = (Meters::default(), 0_u8);
    if items % 2 != 0 {
        return Err(CborError::Field("meters"));
    }
    for _ in 0..items / 2 {
        let (number, quantity) = (reader.unsigned("meter")?, reader.unsigned::<u64>("quantity")?);
        let meter = Meter::from_number(number).filter(|_| number > last && quantity > 0);
        meters.set(meter.ok_or(CborError::Field("meter"))?, quantity);
        last = number;
    }
    Ok(meters)
}

fn write_model(writer: &mut Writer, model: Option<&str>) {
    writer.optional(model, |writer, model| {
        writer.text(model);
    });
}

fn read_model(reader: &mut Reader<'_>) -> Result<Option<String>, CborError> {
    reader.optional(|reader| reader.text(MODEL_BYTES_MAX, "model").map(str::to_owned))
}

fn clipped(model: &str) -> String {
    model.get(..model.floor_char_boundary(MODEL_BYTES_MAX)).unwrap_or_default().to_owned()
}
