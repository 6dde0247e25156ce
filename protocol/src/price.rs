//! What units cost: versioned tables of list prices, and the one function that turns
//! meters into a bill.
//!
//! Invariant: what a table does not price is refused, and never free.

mod names;
mod parcel;
mod standing;

use std::collections::BTreeMap;

use ed25519_dalek::Signature;
use ed25519_dalek::Signer as _;
use ed25519_dalek::SigningKey;
use ed25519_dalek::VerifyingKey;
use serde::Deserialize;
use serde::Serialize;
use sha2::Digest as _;
use sha2::Sha256;

use crate::hex::Hex;
use crate::money::NanoUsd;
use crate::money::PicoUsd;
use crate::money::Ppm;
use crate::money::TooMuch;
use crate::provider::Provider;
use crate::usage::Meter;
use crate::usage::Meters;

pub use parcel::pack;
pub use parcel::unpack_signed;
pub use standing::OwnerTier;
pub use standing::UnknownName;
pub use standing::Zone;

/// The longest table, as bytes.
pub const TABLE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// In which of a vendor's classes of service a call is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceTier {
    /// The usual one.
    Standard,
    /// OpenAI's slower and cheaper one.
    Flex,
    /// The faster and dearer one.
    Priority,
}

impl ServiceTier {
    /// All of them, by number.
    pub const ALL: [Self; 3] = [Self::Standard, Self::Flex, Self::Priority];

    /// The number on the wire and in ledgers.
    pub const fn number(self) -> u8 {
        match self {
            Self::Standard => 1,
            Self::Flex => 2,
            Self::Priority => 3,
        }
    }

    /// The tier with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.number() == number)
    }

    /// The tier that an answer names; `None` for one that no table prices. Nothing said is
    /// the usual one.
    pub fn of_answer(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("default" | "standard") => Some(Self::Standard),
            Some("flex") => Some(Self::Flex),
            Some("priority" | "fast") => Some(Self::Priority),
            Some(_) => None,
        }
    }
}

/// How a call is served, as far as its price depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The class of service.
    pub tier: ServiceTier,
    /// Whether in the vendor's fast mode.
    pub is_fast: bool,
    /// Whether in the United States only.
    pub is_us: bool,
}

impl From<ServiceTier> for Service {
    fn from(tier: ServiceTier) -> Self {
        Self { tier, is_fast: false, is_us: false }
    }
}

impl Service {
    /// The service that an answer names by its tier, speed and region; `None` for one that
    /// no table prices. Nothing said is the usual one.
    pub fn of_answer(tier: Option<&str>, speed: Option<&str>, region: Option<&str>) -> Option<Self> {
        let is_fast = match speed {
            None | Some("standard") => false,
            Some("fast") => true,
            Some(_) => return None,
        };
        let is_us = match region {
            None | Some("global" | "not_available") => false,
            Some("us") => true,
            Some(_) => return None,
        };
        Some(Self { tier: ServiceTier::of_answer(tier)?, is_fast, is_us })
    }
}

/// By how much the prices of tokens rise with the way a call is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surcharges {
    /// What tokens cost in the fast mode, as a share of their usual price; `None` where
    /// there is no such mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fast: Option<Ppm>,
    /// The same in the United States only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub us: Option<Ppm>,
}

impl Surcharges {
    /// The usual price for every call.
    pub const NONE: Self = Self { fast: None, us: None };

    fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

/// One list price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Of what.
    pub meter: Meter,
    /// In which class of service.
    pub tier: ServiceTier,
    /// For calls with more tokens in than this; 0 for all.
    pub above_input_tokens: u64,
    /// Of one unit: a token, a search, a second of audio for [`Meter::AudioMillis`].
    pub pico_usd: PicoUsd,
}

/// A model's prices and bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sku {
    /// The most tokens in and out together, if known.
    pub context_tokens: Option<u64>,
    /// The most tokens out, if known.
    pub output_tokens_max: Option<u64>,
    /// What a call that its consumer left is taken to have made per second of its life,
    /// where the vendor never said.
    pub abort_tokens_per_second: u32,
    /// What the fast mode and the region add.
    #[serde(default, skip_serializing_if = "Surcharges::is_none")]
    pub surcharges: Surcharges,
    /// The prices, each (meter, tier, threshold) once, in that order.
    pub rates: Vec<Rate>,
}

/// A version of all prices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceTable {
    /// Counts up with every published table.
    pub version: u32,
    /// From when on calls are sold at these prices, in milliseconds since 1970.
    pub valid_from_unix_ms: u64,
    /// Where the prices come from.
    pub source: String,
    /// The models by vendor, then by the vendor's name for them.
    pub models: BTreeMap<Provider, BTreeMap<String, Sku>>,
}

/// Why a table is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Not the bytes of a table.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Readable, but not as this version of the program would have written it.
    #[error("it is not in its one canonical form")]
    NotCanonical,
    /// The hub did not sign it.
    #[error("the signature is not the hub's")]
    NotSigned,
    /// A price below 0.
    #[error("{0} has a price below 0")]
    Negative(String),
    /// The prices of a model are not each once and in order.
    #[error("{0} has a price twice, or its prices are out of order")]
    Disorder(String),
}

/// What a hub signs of a table: this and its hash.
const SIGNED_PREFIX: &[u8] = b"kh/price/1\n";

/// Why a call cannot be billed, and is therefore not sold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BillError {
    /// The table has no price for something that was used.
    #[error("there is no price for {} in this class of service", .0.name())]
    NoPrice(Meter),
    /// The table has no price for this way of serving the model.
    #[error("there is no price for {0}")]
    NoSurcharge(&'static str),
    /// The amount is beyond 64 bits.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
}

/// One line of a bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Of what.
    pub meter: Meter,
    /// How much of it.
    pub quantity: u64,
    /// The list price of one unit.
    pub unit_pico_usd: PicoUsd,
    /// The list cost of the line.
    pub nano_usd: NanoUsd,
}

/// What a call costs at list prices.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Bill {
    /// By meter.
    pub lines: Vec<Line>,
    /// Their sum.
    pub list_nano_usd: NanoUsd,
}

impl PriceTable {
    /// The one sequence of bytes that stands for this table: what is hashed, signed,
    /// stored and sent.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text keys and integers only")
    }

    /// Reads a table's bytes.
    ///
    /// # Errors
    /// When they are not the one form of a valid table.
    pub fn decode(bytes: &[u8]) -> Result<Self, TableError> {
        if bytes.len() > TABLE_BYTES_MAX {
            return Err(TableError::Unreadable("it is too long".to_owned()));
        }
        let table: Self = serde_json::from_slice(bytes).map_err(|error| TableError::Unreadable(error.to_string()))?;
        table.check()?;
        if table.encode() == bytes { Ok(table) } else { Err(TableError::NotCanonical) }
    }

    /// SHA-256 of [`Self::encode`]: what holds and tickets name beside the version.
    pub fn hash(&self) -> Hex<32> {
        Self::hash_of(&self.encode())
    }

    /// SHA-256 of any bytes, such as those of the file that prices come from.
    pub fn hash_of(bytes: &[u8]) -> Hex<32> {
        Hex(Sha256::digest(bytes).into())
    }

    /// The hub's signature over [`Self::hash`].
    pub fn sign(&self, key: &SigningKey) -> [u8; 64] {
        key.sign(&signed(&self.hash())).to_bytes()
    }

    /// Reads a table's bytes if the hub with this key signed them.
    ///
    /// # Errors
    /// [`TableError::NotSigned`], and those of [`Self::decode`].
    pub fn decode_signed(bytes: &[u8], signature: &[u8; 64], key: &VerifyingKey) -> Result<Self, TableError> {
        let hash = Self::hash_of(bytes);
        let signature = Signature::from_bytes(signature);
        key.verify_strict(&signed(&hash), &signature).map_err(|_| TableError::NotSigned)?;
        Self::decode(bytes)
    }

    /// The prices of a model, by its vendor's exact name.
    pub fn sku(&self, provider: Provider, model: &str) -> Option<&Sku> {
        self.models.get(&provider)?.get(model)
    }

    /// Whether every model's prices are in order.
    ///
    /// # Errors
    /// Names the first model whose are not.
    pub fn check(&self) -> Result<(), TableError> {
        for (provider, models) in &self.models {
            for (model, sku) in models {
                let name = || format!("{provider}/{model}");
                if sku.rates.iter().any(|rate| rate.pico_usd < PicoUsd(0)) {
                    return Err(TableError::Negative(name()));
                }
                if !sku.rates.is_sorted_by(|one, next| one.key() < next.key()) {
                    return Err(TableError::Disorder(name()));
                }
            }
        }
        Ok(())
    }
}

fn signed(hash: &Hex<32>) -> Vec<u8> {
    [SIGNED_PREFIX, &hash.0].concat()
}

impl Rate {
    /// By what prices are ordered; each stands once.
    pub fn key(&self) -> (Meter, ServiceTier, u64) {
        (self.meter, self.tier, self.above_input_tokens)
    }
}

impl Sku {
    /// What these quantities cost at list prices. The same function quotes and bills.
    ///
    /// # Errors
    /// When something has no price.
    pub fn bill(&self, service: impl Into<Service>, used: &Meters) -> Result<Bill, BillError> {
        let service = service.into();
        let input_tokens = used.input_tokens();
        let mut bill = Bill::default();
        for (meter, quantity) in used.iter() {
            let unit = self.rate(meter, service.tier, input_tokens).ok_or(BillError::NoPrice(meter))?;
            let unit = if meter.is_tokens() { self.raised(unit, service)? } else { unit };
            let nano_usd = if meter == Meter::AudioMillis {
                unit.times_thousandths_rounded(quantity)?
            } else {
                unit.times_rounded(quantity)?
            };
            bill.lines.push(Line { meter, quantity, unit_pico_usd: unit, nano_usd });
            bill.list_nano_usd = bill.list_nano_usd.plus(nano_usd)?;
        }
        Ok(bill)
    }

    /// The price of a token served in this way.
    fn raised(&self, unit: PicoUsd, service: Service) -> Result<PicoUsd, BillError> {
        let Surcharges { fast, us } = self.surcharges;
        let mut unit = unit;
        for (asked, factor, name) in
            [(service.is_fast, fast, "the fast mode"), (service.is_us, us, "serving in the United States only")]
        {
            if asked {
                unit = unit.share_rounded(factor.ok_or(BillError::NoSurcharge(name))?)?;
            }
        }
        Ok(unit)
    }

    /// The price for calls of this size: of those whose threshold they exceed, the one with
    /// the highest.
    fn rate(&self, meter: Meter, tier: ServiceTier, input_tokens: u64) -> Option<PicoUsd> {
        let fitting = self.rates.iter().filter(|rate| {
            let exceeds = rate.above_input_tokens == 0 || input_tokens > rate.above_input_tokens;
            rate.meter == meter && rate.tier == tier && exceeds
        });
        fitting.max_by_key(|rate| rate.above_input_tokens).map(|rate| rate.pico_usd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Coding;
    use crate::usage::Form;
    use crate::usage::Shape;
    use crate::usage::Tap;

    #[test]
    fn bills_equal_those_of_the_public_calculators() {
        // genai-prices 0.2.3 and litellm 1.109.1 give $0.00249 and $0.002235 for these.
        let gpt_4o = sku(&[(Meter::Input, 2_500_000), (Meter::CachedInput, 1_250_000), (Meter::Output, 10_000_000)]);
        let sonnet = sku(&[
            (Meter::Input, 3_000_000),
            (Meter::CachedInput, 300_000),
            (Meter::CacheWrite, 3_750_000),
            (Meter::CacheWrite1h, 6_000_000),
            (Meter::Output, 15_000_000),
        ]);

        let chat = bill(
            &gpt_4o,
            Form::Completions,
            r#"{"prompt_tokens":1200,"completion_tokens":77,"prompt_tokens_details":{"cached_tokens":1024}}"#,
        );
        let message = bill(
            &sonnet,
            Form::Messages,
            r#"{"input_tokens":50,"cache_creation_input_tokens":300,"cache_creation":{"ephemeral_5m_input_tokens":100,"ephemeral_1h_input_tokens":200},"cache_read_input_tokens":700,"output_tokens":20}"#,
        );

        assert_eq!(chat.unwrap().list_nano_usd, NanoUsd(2_490_000));
        assert_eq!(message.unwrap().list_nano_usd, NanoUsd(2_235_000));
    }

    #[test]
    fn what_has_no_price_is_not_billed_as_free() {
        let only_output = sku(&[(Meter::Output, 1)]);

        let billed = bill(&only_output, Form::Completions, r#"{"prompt_tokens":1,"completion_tokens":1}"#);
        let flex = only_output.bill(ServiceTier::Flex, &used(Form::Completions, r#"{"completion_tokens":1}"#));

        assert_eq!(billed, Err(BillError::NoPrice(Meter::Input)));
        assert_eq!(flex, Err(BillError::NoPrice(Meter::Output)));
        assert_eq!(ServiceTier::of_answer(Some("scale")), None);
    }

    #[test]
    fn long_calls_cost_what_their_size_costs() {
        let mut sku = sku(&[(Meter::Input, 1_000_000), (Meter::CachedInput, 100_000), (Meter::Output, 2_000_000)]);
        let long =
            |meter, pico_usd| Rate { above_input_tokens: 200_000, pico_usd: PicoUsd(pico_usd), ..rate(meter, 0) };
        sku.rates.extend([long(Meter::Input, 3_000_000), long(Meter::Output, 6_000_000)]);
        let cost = |cached: u64| {
            let usage = format!(
                r#"{{"prompt_tokens":{},"completion_tokens":1,"prompt_tokens_details":{{"cached_tokens":{cached}}}}}"#,
                100_000 + cached
            );
            bill(&sku, Form::Completions, &usage).unwrap().list_nano_usd.0
        };

        assert_eq!(cost(100_000), 100_000_000 + 10_000_000 + 2_000);
        assert_eq!(cost(100_001), 300_000_000 + 10_000_100 + 6_000);
    }

    #[test]
    fn time_is_priced_by_the_second_and_billed_by_the_millisecond() {
        let whisper = sku(&[(Meter::AudioMillis, 100_000_000)]);

        let billed = bill(&whisper, Form::Transcription, r#"{"type":"duration","seconds":7.5}"#).unwrap();

        assert_eq!(billed.list_nano_usd, NanoUsd(750_000));
    }

    #[test]
    fn the_fast_mode_and_the_region_raise_the_price_of_tokens_and_of_nothing_else() {
        let mut opus =
            sku(&[(Meter::Input, 5_000_000), (Meter::Output, 25_000_000), (Meter::WebSearch, 10_000_000_000)]);
        let mut used = used(Form::Messages, r#"{"input_tokens":1000,"output_tokens":100}"#);
        used.set(Meter::WebSearch, 1);
        let fast = Service::of_answer(None, Some("fast"), Some("global")).unwrap();
        let both = Service::of_answer(None, Some("fast"), Some("us")).unwrap();

        assert_eq!(opus.bill(fast, &used), Err(BillError::NoSurcharge("the fast mode")));
        opus.surcharges = Surcharges { fast: Some(Ppm(2_000_000)), us: Some(Ppm(1_100_000)) };

        let cost = |service: Service| opus.bill(service, &used).unwrap().list_nano_usd.0 - 10_000_000;
        assert_eq!(cost(ServiceTier::Standard.into()), 7_500_000);
        assert_eq!(cost(fast), 15_000_000);
        assert_eq!(cost(both), 16_500_000);
        assert_eq!(Service::of_answer(None, Some("slow"), None), None);
        assert_eq!(Service::of_answer(None, None, Some("eu")), None);
    }

    #[test]
    fn a_table_without_surcharges_is_written_as_ever() {
        let plain = String::from_utf8(table().encode()).unwrap();
        let mut raised = table();
        raised.models.get_mut(&Provider::OpenAi).unwrap().get_mut("gpt-4o").unwrap().surcharges.us =
            Some(Ppm(1_100_000));

        assert!(!plain.contains("surcharges"));
        assert!(String::from_utf8(raised.encode()).unwrap().contains(r#""surcharges":{"us":1100000}"#));
        assert_eq!(PriceTable::decode(&raised.encode()), Ok(raised));
    }

    #[test]
    fn a_table_has_one_form_and_one_hash() {
        let table = table();
        let bytes = table.encode();

        assert_eq!(PriceTable::decode(&bytes), Ok(table.clone()));
        let spaced = [b" ".to_vec(), bytes.clone()].concat();
        assert_eq!(PriceTable::decode(&spaced), Err(TableError::NotCanonical));
        assert!(matches!(PriceTable::decode(b"{}"), Err(TableError::Unreadable(_))));
        let more = String::from_utf8(bytes).unwrap().replacen("\"version\"", "\"extra\":1,\"version\"", 1);
        assert!(matches!(PriceTable::decode(more.as_bytes()), Err(TableError::Unreadable(_))));
        let mut other = table.clone();
        other.version += 1;
        assert_ne!(other.hash(), table.hash());
    }

    #[test]
    fn a_table_counts_only_with_the_hubs_signature() {
        let (hub, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let table = table();
        let (bytes, signature) = (table.encode(), table.sign(&hub));
        let read = |bytes: &[u8], key: &SigningKey| PriceTable::decode_signed(bytes, &signature, &key.verifying_key());

        assert_eq!(read(&bytes, &hub), Ok(table));
        assert_eq!(read(&bytes, &other), Err(TableError::NotSigned));
        let mut changed = bytes.clone();
        changed[12] ^= 1;
        assert_eq!(read(&changed, &hub), Err(TableError::NotSigned));
    }

    #[test]
    fn a_table_with_a_price_twice_or_below_nothing_is_refused() {
        let with = |rates: Vec<Rate>| {
            let mut table = table();
            let sku = Sku { rates, ..sku(&[]) };
            table.models.get_mut(&Provider::OpenAi).unwrap().insert("x".to_owned(), sku);
            PriceTable::decode(&table.encode())
        };

        assert_eq!(with(vec![rate(Meter::Input, -1)]), Err(TableError::Negative("openai/x".to_owned())));
        let twice = vec![rate(Meter::Input, 1), rate(Meter::Input, 2)];
        assert_eq!(with(twice), Err(TableError::Disorder("openai/x".to_owned())));
        let turned = vec![rate(Meter::Output, 1), rate(Meter::Input, 2)];
        assert_eq!(with(turned), Err(TableError::Disorder("openai/x".to_owned())));
    }

    #[test]
    fn no_bytes_lead_to_a_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = PriceTable::decode(bytes);
        });
    }

    fn table() -> PriceTable {
        let models = BTreeMap::from([("gpt-4o".to_owned(), sku(&[(Meter::Input, 1), (Meter::Output, 2)]))]);
        PriceTable {
            version: 1,
            valid_from_unix_ms: 5,
            source: "test".to_owned(),
            models: BTreeMap::from([(Provider::OpenAi, models)]),
        }
    }

    fn sku(prices: &[(Meter, i64)]) -> Sku {
        let rates = prices.iter().map(|(meter, pico_usd)| rate(*meter, *pico_usd)).collect();
        Sku {
            context_tokens: None,
            output_tokens_max: None,
            abort_tokens_per_second: 100,
            surcharges: Surcharges::NONE,
            rates,
        }
    }

    fn rate(meter: Meter, pico_usd: i64) -> Rate {
        Rate { meter, tier: ServiceTier::Standard, above_input_tokens: 0, pico_usd: PicoUsd(pico_usd) }
    }

    fn bill(sku: &Sku, form: Form, usage: &str) -> Result<Bill, BillError> {
        sku.bill(ServiceTier::Standard, &used(form, usage))
    }

    fn used(form: Form, usage: &str) -> Meters {
        let mut tap = Tap::new(form, Shape::Json, Some(Coding::Identity));
        tap.feed(format!(r#"{{"usage":{usage}}}"#).as_bytes());
        Meters::of(form, &tap.finish(true).counters).0
    }
}
