//! What a field of a request may be, and what it means for the price.
//!
//! Invariant: every field of a table says all of it: whose it is, what its value may be,
//! what it costs, and where its own keys are looked at.

use super::place::Place;
use crate::provider::Provider;

/// Some of the vendors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vendors(u8);

impl Vendors {
    /// None.
    pub const NONE: Self = Self(0);
    /// Every vendor.
    pub const ALL: Self = Self(0b1111);

    /// Just this one.
    pub const fn one(provider: Provider) -> Self {
        Self(match provider {
            Provider::OpenAi => 0b0001,
            Provider::Azure => 0b0010,
            Provider::Anthropic => 0b0100,
            Provider::DeepSeek => 0b1000,
        })
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These without those.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those of them that are also there.
    #[must_use]
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether it is none.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether this one is among them.
    pub fn has(self, provider: Provider) -> bool {
        !self.both(Self::one(provider)).is_none()
    }
}

pub(super) const OPENAI: Vendors = Vendors::one(Provider::OpenAi);
pub(super) const AZURE: Vendors = Vendors::one(Provider::Azure);
pub(super) const DEEPSEEK: Vendors = Vendors::one(Provider::DeepSeek);

/// What a field says about the price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Costs nothing beyond the tokens it is made of.
    Free,
    /// Bounds or raises the price in this way.
    CostBearing(Bound),
    /// Costs nothing with the values that are allowed.
    Checked,
    /// Is not served.
    Refused(Why),
}

/// How a field bounds or raises the price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Input: its text, and the full context window when it holds media or URLs.
    Input,
    /// Output that is foretold: it goes in, and what of it was wrong is output too.
    Prediction,
    /// The most tokens of output.
    Output,
    /// Makes more of the output, within its bound.
    Effort,
    /// Multiplies the output.
    Copies,
    /// The most calls of the vendor's own tools.
    ToolCalls,
    /// Tools: their definitions are input, and bounded server tools cost by the call.
    Tools,
    /// The tier of service, and with it the price list.
    Tier,
    /// Cached input is written at a price of its own.
    CacheWrite,
    /// Output in another medium, at that medium's price.
    Medium,
    /// Size, quality or number of images, and with it their price.
    Image,
    /// Length of the recording.
    Audio,
}

impl Bound {
    /// In words, for the document.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Input => "input; with media or URLs in it, the full context window",
            Self::Prediction => "input, and output as far as it was wrong",
            Self::Output => "the most tokens of output",
            Self::Effort => "more output, within its bound",
            Self::Copies => "multiplies the output",
            Self::ToolCalls => "the most calls of the vendor's own tools",
            Self::Tools => "input; bounded server tools by the call",
            Self::Tier => "the price list that applies",
            Self::CacheWrite => "input at the price of writing the cache",
            Self::Medium => "output at that medium's price",
            Self::Image => "the price of an image",
            Self::Audio => "the length of the recording",
        }
    }
}

/// Why something is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It refers to what the vendor keeps in the owner's account.
    Stored,
    /// It makes the vendor keep something that only the account's owner could fetch.
    Keeps,
    /// It runs on after the answer, where nobody could meter or stop it.
    Background,
    /// It opens a third party or a data source in the owner's name.
    Connector,
    /// It runs code or sessions on the vendor's machines in the owner's account.
    Machine,
    /// It calls something at the vendor without a bound or at a price of its own.
    Unbounded,
    /// It brings a second model into the call, at another price.
    OtherModel,
    /// It draws on rights or credit of the owner's organisation.
    Organisation,
}

impl Why {
    /// Why, and what to do instead; the end of a sentence.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Stored => {
                "refers to something kept in the account of the key's owner, which many consumers share; send the content itself"
            }
            Self::Keeps => {
                "makes the vendor keep the answer in the account of the key's owner; leave it out or send false"
            }
            Self::Background => "runs on after the answer, where it cannot be metered; leave it out or send false",
            Self::Connector => {
                "reaches third parties in the name of the key's owner; call them yourself, with a function tool"
            }
            Self::Machine => {
                "runs on the vendor's machines in the account of the key's owner; run it yourself, with a function tool"
            }
            Self::Unbounded => "costs without a bound that the request states; leave it out",
            Self::OtherModel => "brings a second model, with another price, into the call; call that model by itself",
            Self::Organisation => "draws on rights or credit of the organisation that owns the key; leave it out",
        }
    }

    /// In a few words, for the document.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Stored => "refers to what is kept in the owner's account",
            Self::Keeps => "would keep the answer in the owner's account",
            Self::Background => "runs on after the answer",
            Self::Connector => "reaches third parties in the owner's name",
            Self::Machine => "runs on the vendor's machines in the owner's account",
            Self::Unbounded => "costs without a stated bound",
            Self::OtherModel => "brings a second model into the call",
            Self::Organisation => "draws on the owner's organisation",
        }
    }
}

/// What a value may be. `null` is as good as absent wherever a field is not refused for its
/// bytes, because SDKs send it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Anything; objects and lists of objects stand at this place.
    Any(Place),
    /// An object, which stands at this place.
    Object(Place),
    /// The model's name.
    Model,
    /// `true` or `false`: whether the answer is a stream.
    Stream,
    /// A string, and nothing with keys in it.
    Text,
    /// A whole number within bounds, both included.
    Whole(u64, u64),
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// `false` only.
    False(Why),
    /// Nothing but `null`.
    Nothing(Why),
}

/// How often a part of a form may stand in it, and as what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Once, as text.
    Once,
    /// As often as wanted, under its name or with brackets behind it.
    Many,
    /// As often as wanted, as a file.
    File,
}

/// One field of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Whose field it is.
    pub vendors: Vendors,
    /// What it means for the price.
    pub class: Class,
    /// What its value may be.
    pub takes: Takes,
    /// What it may be in a form.
    pub part: Part,
}

impl Field {
    /// A field of these vendors only.
    pub(super) const fn of(self, vendors: Vendors) -> Self {
        Self { vendors, ..self }
    }

    /// Objects in it stand at this place.
    pub(super) const fn at(self, place: Place) -> Self {
        Self { takes: Takes::Any(place), ..self }
    }

    /// It is one object, which stands at this place.
    pub(super) const fn object(self, place: Place) -> Self {
        Self { takes: Takes::Object(place), ..self }
    }

    /// A form may hold it more than once.
    pub(super) const fn many(self) -> Self {
        Self { part: Part::Many, ..self }
    }

    /// A form holds it as a file.
    pub(super) const fn file(self) -> Self {
        Self { part: Part::File, ..self }
    }
}

const fn field(name: &'static str, class: Class, takes: Takes) -> Field {
    Field { name, vendors: Vendors::ALL, class, takes, part: Part::Once }
}

/// The model, by which calls are routed.
pub(super) const MODEL: Field = field("model", Class::CostBearing(Bound::Tier), Takes::Model);

/// Whether the answer is a stream.
pub(super) const STREAM: Field = field("stream", Class::Free, Takes::Stream);

pub(super) const fn free(name: &'static str) -> Field {
    field(name, Class::Free, Takes::Any(Place::Plain))
}

pub(super) const fn text(name: &'static str) -> Field {
    field(name, Class::Free, Takes::Text)
}

pub(super) const fn costs(name: &'static str, bound: Bound) -> Field {
    field(name, Class::CostBearing(bound), Takes::Any(Place::Plain))
}

pub(super) const fn whole(name: &'static str, bound: Bound, most: u64) -> Field {
    let least = if matches!(bound, Bound::Copies) { 1 } else { 0 };
    field(name, Class::CostBearing(bound), Takes::Whole(least, most))
}

pub(super) const fn priced(name: &'static str, bound: Bound, values: &'static [&'static str]) -> Field {
    field(name, Class::CostBearing(bound), Takes::OneOf(values))
}

pub(super) const fn checked(name: &'static str, values: &'static [&'static str]) -> Field {
    field(name, Class::Checked, Takes::OneOf(values))
}

pub(super) const fn off(name: &'static str, why: Why) -> Field {
    field(name, Class::Refused(why), Takes::False(why))
}

pub(super) const fn refused(name: &'static str, why: Why) -> Field {
    field(name, Class::Refused(why), Takes::Nothing(why))
}
