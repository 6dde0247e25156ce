//! One JSON text of an answer at a time: what of it counts is added to the reading.
//!
//! Invariant: what a usage object says counts when the object is whole, and what was whole
//! before an answer broke off has been read.

use super::Counter;
use super::Counters;
use super::Form;
use super::form::Place;
use super::form::Tree;
use super::form::What;
use crate::json_scan::Event;
use crate::json_scan::JsonScan;
use crate::json_scan::Text;

/// The deepest level that any table names, and one more.
const LEVELS: usize = 9;

/// The longest name that is kept.
const NAME_BYTES_MAX: usize = 128;

/// Something that makes a reading less than certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Doubt {
    /// A number of a usage object that no table names.
    UnknownUsage = 1,
    /// A usage number that is negative, broken or beyond 64 bits, or no number.
    BadNumber = 2,
    /// Numbers that contradict each other.
    Contradiction = 4,
    /// Something that is not the JSON it should be.
    Unreadable = 8,
    /// A content coding that could not be undone.
    Undecodable = 16,
    /// Another model answered than the one that was asked for.
    OtherModel = 32,
    /// It was served in a class of service that no table prices.
    UnknownTier = 64,
    /// Something that was used has no price.
    Unpriced = 128,
    /// It would cost more than the ceiling.
    OverCeiling = 256,
    /// The vendor ended its answer and did not state what it used.
    Unstated = 512,
    /// The other side's measure of time was not believed.
    OwnClock = 1024,
}

impl Doubt {
    /// All of them, by number.
    pub const ALL: [Self; 11] = [
        Self::UnknownUsage,
        Self::BadNumber,
        Self::Contradiction,
        Self::Unreadable,
        Self::Undecodable,
        Self::OtherModel,
        Self::UnknownTier,
        Self::Unpriced,
        Self::OverCeiling,
        Self::Unstated,
        Self::OwnClock,
    ];

    /// A short name, for records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownUsage => "unknown_usage",
            Self::BadNumber => "bad_number",
            Self::Contradiction => "contradiction",
            Self::Unreadable => "unreadable",
            Self::Undecodable => "undecodable",
            Self::OtherModel => "other_model",
            Self::UnknownTier => "unknown_tier",
            Self::Unpriced => "unpriced",
            Self::OverCeiling => "over_ceiling",
            Self::Unstated => "unstated",
            Self::OwnClock => "own_clock",
        }
    }
}

/// A set of [`Doubt`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Doubts(u16);

impl Doubts {
    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this one is there.
    pub const fn has(self, doubt: Doubt) -> bool {
        self.0 & doubt as u16 != 0
    }

    /// Those that this version knows, by number.
    pub fn iter(self) -> impl Iterator<Item = Doubt> {
        Doubt::ALL.into_iter().filter(move |doubt| self.has(*doubt))
    }

    /// Adds one.
    pub fn add(&mut self, doubt: Doubt) {
        self.0 |= doubt as u16;
    }

    /// Adds all of the other set.
    pub fn add_all(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// The set as bits, each [`Doubt`] its own.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The set with these bits. Those that no doubt has are kept: a newer peer may doubt more.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }
}

/// What was read of an answer so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// What the vendor states.
    pub counters: Counters,
    /// Realtime: what it states of the model that writes down what it heard.
    pub heard: Counters,
    /// The model that answered, as it names itself.
    pub model: Option<String>,
    /// Realtime: the model that writes down what it heard.
    pub heard_model: Option<String>,
    /// The tier that the call was served in.
    pub tier: Option<String>,
    /// Anthropic: the speed that the call was served with.
    pub speed: Option<String>,
    /// Anthropic: the region that the call was served in.
    pub region: Option<String>,
    /// Bytes of text for the consumer.
    pub text_bytes: u64,
    /// The vendor said that the model has stopped.
    pub finished: bool,
    /// It stated the output together with that, or behind it: no later figure is to come.
    pub output_final: bool,
    /// The vendor said that the answer is whole.
    pub ended: bool,
    /// The vendor said that something failed.
    pub failed: bool,
    /// What makes the reading less than certain.
    pub doubts: Doubts,
}

/// Reads JSON texts of one form.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    form: Form,
    json: JsonScan,
    places: [Place; LEVELS],
    /// Of a usage object that is not whole yet, or with realtime of a message, whose type may
    /// come last.
    staged: Staged,
    kind: Kind,
    /// The present text states the output.
    states_output: bool,
    /// The text so far, while it may still be the mark of the end.
    beginning: Beginning,
}

/// Numbers that do not count yet.
#[derive(Debug, Clone, Default)]
struct Staged {
    counters: Counters,
    heard: Counters,
}

/// What the type of an event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    Last,
    /// Realtime: an answer is over, and its usage counts.
    ResponseDone,
    /// Realtime: something heard was written down, and its usage counts.
    Heard,
    Error,
}

/// How a text begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    Blank,
    Json,
    /// So many bytes of [`DONE`] have matched.
    Done(usize),
    Neither,
}

/// The text that ends OpenAI's streams.
const DONE: &[u8] = b"[DONE]";

impl Reader {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            json: JsonScan::new(),
            places: [Place::Outside; LEVELS],
            staged: Staged::default(),
            kind: Kind::Other,
            states_output: false,
            beginning: Beginning::Blank,
        }
    }

    /// Reads more of the present text.
    pub(super) fn feed(&mut self, mut bytes: &[u8], reading: &mut Reading) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.beginning {
                Beginning::Json => return self.json(bytes, reading),
                Beginning::Neither => return,
                Beginning::Blank if byte.is_ascii_whitespace() => bytes = rest,
                Beginning::Blank if byte == b'[' => {
                    self.beginning = Beginning::Done(1);
                    bytes = rest;
                }
                Beginning::Blank => self.beginning = Beginning::Json,
                Beginning::Done(matched) if DONE.get(matched) == Some(&byte) => {
                    self.beginning = Beginning::Done(matched + 1);
                    bytes = rest;
                }
                Beginning::Done(matched) if matched == DONE.len() && byte.is_ascii_whitespace() => bytes = rest,
                Beginning::Done(_) => self.beginning = Beginning::Neither,
            }
        }
    }

    /// The present text is over. Says whether it was a whole one.
    pub(super) fn end(&mut self, reading: &mut Reading) -> bool {
        let whole = match self.beginning {
            Beginning::Done(matched) if matched == DONE.len() => {
                reading.ended = true;
                reading.finished = true;
                true
            }
            Beginning::Json => self.end_json(reading),
            // An empty text says nothing, which is no fault.
            Beginning::Blank => false,
            Beginning::Done(_) | Beginning::Neither => {
                reading.doubts.add(Doubt::Unreadable);
                false
            }
        };
        *self = Self::new(self.form);
        whole
    }

    fn end_json(&mut self, reading: &mut Reading) -> bool {
        let mut walk = self.walk_of(reading);
        let whole = walk.json.finish(|spot, event| walk.steps.take(spot.depth, event)).is_ok();
        if !whole {
            reading.doubts.add(Doubt::Unreadable);
        }
        match self.kind {
            Kind::Last => {
                reading.ended = true;
                reading.finished = true;
                reading.output_final |= self.states_output;
            }
            Kind::Error => reading.failed = true,
            Kind::ResponseDone => reading.counters.add(&self.staged.counters),
            Kind::Heard => reading.heard.add(&self.staged.heard),
            Kind::Other => {}
        }
        whole
    }

    fn json(&mut self, bytes: &[u8], reading: &mut Reading) {
        let mut walk = self.walk_of(reading);
        if walk.json.feed(bytes, |spot, event| walk.steps.take(spot.depth, event)).is_err() {
            self.beginning = Beginning::Neither;
        }
    }

    fn walk_of<'a>(&'a mut self, reading: &'a mut Reading) -> Walk<'a> {
        Walk {
            json: &mut self.json,
            steps: Steps {
                form: self.form,
                tree: self.form.tree(),
                places: &mut self.places,
                kind: &mut self.kind,
                states_output: &mut self.states_output,
                staged: &mut self.staged,
                reading,
            },
        }
    }
}

struct Walk<'a> {
    json: &'a mut JsonScan,
    steps: Steps<'a>,
}

/// The events of a JSON text, against the tree.
struct Steps<'a> {
    form: Form,
    tree: &'static Tree,
    places: &'a mut [Place; LEVELS],
    kind: &'a mut Kind,
    states_output: &'a mut bool,
    staged: &'a mut Staged,
    reading: &'a mut Reading,
}

impl Steps<'_> {
    fn take(&mut self, depth: u32, event: Event<'_>) {
        let level = usize::try_from(depth).unwrap_or(usize::MAX);
        match event {
            Event::Key(key) => {
                let name = if key.len <= NAME_BYTES_MAX as u64 { key.prefix } else { &[] };
                let place = self.tree.child(self.place(level.saturating_sub(1)), name);
                self.set(level, place);
            }
            Event::ArrayStart => {
                let place = self.tree.child(self.place(level), Tree::EACH);
                self.set(level + 1, place);
            }
            Event::ObjectStart => {
                if self.tree.what(self.place(level)) == Some(What::Error) {
                    self.reading.failed = true;
                }
                // Whatever has no key is nowhere.
                self.set(level + 1, Place::Outside);
            }
            Event::Number(number) => self.number(level, number),
            Event::String(text) => self.text(level, text),
            Event::ObjectEnd => {
                if self.form != Form::Realtime && self.tree.what(self.place(level)) == Some(What::Usage) {
                    self.commit();
                }
            }
            Event::ArrayEnd | Event::Bool(_) | Event::Null => {}
        }
    }

    /// A usage object is whole.
    fn commit(&mut self) {
        let stated = std::mem::take(&mut self.staged.counters);
        self.reading.counters.replace(&stated);
        *self.states_output |= stated.get(Counter::Output).is_some();
        self.reading.output_final |= self.reading.finished && *self.states_output;
    }

    fn place(&self, level: usize) -> Place {
        match (level, self.places.get(level)) {
            (0, _) => Tree::ROOT,
            (_, Some(place)) => *place,
            // Deeper than any table: only what is unknown stays so.
            (_, None) => self.places.last().copied().filter(|place| *place == Place::Unknown).unwrap_or(Place::Outside),
        }
    }

    fn set(&mut self, level: usize, place: Place) {
        if let Some(slot) = self.places.get_mut(level) {
            *slot = place;
        }
    }

    fn number(&mut self, level: usize, number: Text<'_>) {
        let place = self.place(level);
        if place == Place::Unknown {
            if number.prefix.iter().any(|byte| (b'1'..=b'9').contains(byte)) {
                self.reading.doubts.add(Doubt::UnknownUsage);
            }
            return;
        }
        match self.tree.what(place) {
            Some(What::Count(counter)) => self.count(counter, integer(number), false),
            Some(What::HeardCount(counter)) => self.count(counter, integer(number), true),
            Some(What::Seconds) => self.count(Counter::AudioMillis, millis(number), false),
            Some(What::HeardSeconds) => self.count(Counter::AudioMillis, millis(number), true),
            Some(
                What::Way
                | What::Usage
                | What::Known
                | What::Model
                | What::HeardModel
                | What::Tier
                | What::Speed
                | What::Region
                | What::Kind
                | What::Text
                | What::Finish
                | What::Error,
            )
            | None => {}
        }
    }

    fn count(&mut self, counter: Counter, value: Option<u64>, heard: bool) {
        let Some(value) = value else { return self.reading.doubts.add(Doubt::BadNumber) };
        let counters = if heard { &mut self.staged.heard } else { &mut self.staged.counters };
        counters.set(counter, value);
    }

    fn text(&mut self, level: usize, text: Text<'_>) {
        let Some(what) = self.tree.what(self.place(level)) else { return };
        let reading = &mut *self.reading;
        match what {
            What::Model => reading.model = name(text),
            What::HeardModel => reading.heard_model = name(text),
            What::Tier => reading.tier = name(text),
            What::Speed => reading.speed = name(text),
            What::Region => reading.region = name(text),
            What::Kind => *self.kind = kind(self.form, text),
            What::Text => reading.text_bytes = reading.text_bytes.saturating_add(text.len),
            What::Finish => {
                reading.finished |= says_finished(self.form, text);
                reading.output_final |= reading.finished && *self.states_output;
            }
            What::Error => reading.failed = true,
            What::Count(_) | What::HeardCount(_) | What::Seconds | What::HeardSeconds => {
                reading.doubts.add(Doubt::BadNumber);
            }
            What::Way | What::Usage | What::Known => {}
        }
    }
}

/// A response that is still running states so where another states why it stopped.
fn says_finished(form: Form, text: Text<'_>) -> bool {
    form != Form::Responses || ["completed", "incomplete", "failed", "cancelled"].iter().any(|end| text.is(end))
}

fn kind(form: Form, text: Text<'_>) -> Kind {
    if form.last_events().iter().any(|last| text.is(last)) {
        Kind::Last
    } else if text.is("error") {
        Kind::Error
    } else if text.is("response.done") {
        Kind::ResponseDone
    } else if text.is("conversation.item.input_audio_transcription.completed") {
        Kind::Heard
    } else {
        Kind::Other
    }
}

fn name(text: Text<'_>) -> Option<String> {
    text.as_str().filter(|name| name.len() <= NAME_BYTES_MAX).map(str::to_owned)
}

/// A count: digits only, within 64 bits.
fn integer(number: Text<'_>) -> Option<u64> {
    number.as_str()?.parse().ok()
}

/// Seconds as a plain decimal, in milliseconds, rounded up.
fn millis(number: Text<'_>) -> Option<u64> {
    let text = number.as_str()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: u64 = whole.parse().ok()?;
    let digit = |at: usize| fraction.as_bytes().get(at).map_or(0, |byte| u64::from(byte - b'0'));
    let thousandths = digit(0) * 100 + digit(1) * 10 + digit(2);
    let rest = fraction.bytes().skip(3).any(|byte| byte != b'0');
    seconds.checked_mul(1000)?.checked_add(thousandths)?.checked_add(u64::from(rest))
}
