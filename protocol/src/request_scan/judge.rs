//! The judge of a body: what its fields ask for, against the tables of the policy.
//!
//! Invariant: the verdict for an endpoint is the same whether it was known from the
//! beginning or agreed on later, and needs no more memory than one short frame for each
//! level of nesting.

use super::error::ScanError;
use super::error::shown;
use super::part_head::PartHead;
use super::tally::Tally;
use super::usage_place::UsagePlace;
use super::value::fits;
use super::value::fits_text;
use crate::demand::Demand;
use crate::json_scan::Event;
use crate::json_scan::Spot;
use crate::json_scan::Text;
use crate::provider::Provider;
use crate::provider::policy::field::Field;
use crate::provider::policy::field::Part;
use crate::provider::policy::field::Takes;
use crate::provider::policy::field::Vendors;
use crate::provider::policy::form::Form;
use crate::provider::policy::is_fine_tuned;
use crate::provider::policy::kind::Verdict;
use crate::provider::policy::place::KEY_BYTES_MAX;
use crate::provider::policy::place::Marks;
use crate::provider::policy::place::Place;
use crate::provider::policy::place::Rule;

/// The longest key that a rule knows.
const KEY_LEN_MAX: u64 = KEY_BYTES_MAX as u64;

/// How deep bodies usually nest.
const DEPTH_USUAL: usize = 8;

/// The field that bounds calls of the vendor's own tools.
const MAX_TOOL_CALLS: &str = "max_tool_calls";

/// Judges the parts of one body as they come.
#[derive(Debug, Clone)]
pub(super) struct Judge {
    form: Form,
    /// The vendors that may still be meant, and the one whose refusal is told first.
    meant: Vendors,
    first: Provider,
    /// Why each vendor's endpoint refuses the body; at most one for each.
    refusals: Vec<(Vendors, ScanError)>,
    frames: Vec<Frame>,
    next: Next,
    /// Fields that were seen, and those of them that are not `null`, by their place in the
    /// form's table.
    seen: u64,
    given: u64,
    /// A tool that needs [`MAX_TOOL_CALLS`].
    searching: Option<&'static str>,
    model: Option<String>,
    stream: Option<bool>,
    tally: Tally,
}

/// An object or array that is open.
#[derive(Debug, Clone, Copy)]
struct Frame {
    place: Place,
    is_object: bool,
    has: Marks,
    needs: Marks,
    /// Its `type`, as a place in the list of kinds.
    kind: Option<u8>,
}

/// What is known of the value that comes next in an object.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// It means nothing.
    Any,
    /// It is a field of the form, at this place in its table.
    Field(usize),
    /// It is a key inside the body.
    Inner(Rule, Name),
    /// A field that some vendor may take; what it holds does not matter.
    Unknown,
}

/// A key that a rule knows, kept for the error.
#[derive(Debug, Clone, Copy)]
struct Name {
    bytes: [u8; KEY_BYTES_MAX],
    len: usize,
}

impl Name {
    fn new(key: &str) -> Self {
        let mut bytes = [0; KEY_BYTES_MAX];
        let len = key.len().min(KEY_BYTES_MAX);
        bytes.iter_mut().zip(key.bytes()).for_each(|(to, from)| *to = from);
        Self { bytes, len }
    }

    fn text(&self) -> String {
        shown(self.bytes.get(..self.len).unwrap_or_default())
    }
}

impl Judge {
    /// A judge of a body of this form, which one of these vendors will get.
    pub(super) fn new(form: Form, first: Provider, meant: Vendors) -> Self {
        Self {
            form,
            meant,
            first,
            refusals: Vec::new(),
            frames: Vec::with_capacity(DEPTH_USUAL),
            next: Next::Any,
            seen: 0,
            given: 0,
            searching: None,
            model: None,
            stream: None,
            tally: Tally::new(form),
        }
    }

    /// What the body asks for, as far as it was read.
    pub(super) fn demand(&self) -> Demand {
        self.tally.demand(self.stream == Some(true), self.searching.is_some())
    }

    pub(super) fn usage_place(&self) -> Option<UsagePlace> {
        self.tally.usage_place()
    }

    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    pub(super) const fn stream(&self) -> Option<bool> {
        self.stream
    }

    /// What it keeps of the body.
    #[cfg(test)]
    pub(super) fn bytes_held(&self) -> usize {
        let model = self.model.as_ref().map_or(0, String::capacity);
        // An error holds a name of at most 64 characters and a list of at most as much.
        model + self.frames.capacity() * size_of::<Frame>() + self.refusals.capacity() * (size_of::<ScanError>() + 1024)
    }

    /// Only this vendor is meant from now on.
    pub(super) fn agree(&mut self, form: Form, provider: Provider) -> Result<(), ScanError> {
        if form != self.form || !self.meant.has(provider) {
            return Err(ScanError::NotACandidate);
        }
        self.meant = Vendors::one(provider);
        self.first = provider;
        self.verdict()
    }

    /// Takes the next event of a JSON body.
    #[inline]
    pub(super) fn take(&mut self, spot: Spot, event: &Event<'_>) -> Result<(), ScanError> {
        match event {
            Event::Key(key) => return self.key(*key),
            Event::ObjectEnd => return self.close(spot),
            Event::ArrayEnd => {
                self.frames.pop();
                return Ok(());
            }
            Event::ObjectStart
            | Event::ArrayStart
            | Event::String(_)
            | Event::Number(_)
            | Event::Bool(_)
            | Event::Null => {}
        }
        let place = match self.frames.last() {
            None if matches!(event, Event::ObjectStart) => Place::Root,
            None => return Err(ScanError::NotAnObject),
            Some(frame) if frame.is_object => self.member(spot, event)?,
            // Whatever a list holds stands where the list stands.
            Some(frame) => frame.place,
        };
        self.tally.value(self.frames.len(), place, event);
        match event {
            Event::ObjectStart => self.open(place, true),
            Event::ArrayStart => self.open(place, false),
            Event::ObjectEnd
            | Event::ArrayEnd
            | Event::Key(_)
            | Event::String(_)
            | Event::Number(_)
            | Event::Bool(_)
            | Event::Null => {}
        }
        Ok(())
    }

    fn open(&mut self, place: Place, is_object: bool) {
        self.frames.push(Frame { place, is_object, has: Marks::NONE, needs: Marks::NONE, kind: None });
    }

    fn key(&mut self, key: Text<'_>) -> Result<(), ScanError> {
        let Some(frame) = self.frames.last() else { return Ok(()) };
        if frame.place == Place::Root {
            return self.field(key);
        }
        // What is longer than any key that means something need not be looked at.
        let known = Some(key).filter(|key| key.len <= KEY_LEN_MAX).and_then(|key| key.as_str());
        let place = frame.place;
        self.tally.key(place, key.len, known);
        if place == Place::StreamOptions {
            self.tally.stream_option();
        }
        if let Some(key) = known.filter(|key| key.bytes().any(|byte| byte.is_ascii_uppercase()))
            && place.rule(&key.to_ascii_lowercase()).is_some()
        {
            // Some readers of JSON do not tell upper from lower case.
            let expected = "written in lower case".to_owned();
            self.refuse(Vendors::ALL, ScanError::BadValue { key: shown(key.as_bytes()), expected })?;
        }
        self.next = match known.and_then(|key| Some((place.rule(key)?, key))) {
            Some((rule, key)) => Next::Inner(rule, Name::new(key)),
            None => Next::Any,
        };
        Ok(())
    }

    /// A top-level key: it has a row for each vendor that takes it.
    fn field(&mut self, key: Text<'_>) -> Result<(), ScanError> {
        let fields = self.form.fields();
        let name = key.as_str();
        let Some(at) = fields.iter().position(|field| Some(field.name) == name) else {
            self.next = Next::Unknown;
            return self.refuse(Vendors::ALL, ScanError::UnknownField { name: shown(key.prefix) });
        };
        self.next = Next::Field(at);
        let is_own = rows(self.form, at).iter().any(|row| row.takes == Takes::Any(Place::Own));
        self.tally.field(name.unwrap_or_default(), is_own);
        self.see(at)
    }

    fn see(&mut self, at: usize) -> Result<(), ScanError> {
        let rows = rows(self.form, at);
        let name = rows.first().map_or("", |row| row.name);
        if self.seen & bit(at) != 0 {
            return self.refuse(Vendors::ALL, ScanError::DuplicateKey { key: name.to_owned() });
        }
        self.seen |= bit(at);
        let takers = rows.iter().fold(Vendors::NONE, |all, row| all.and(row.vendors));
        let others = self.meant.without(takers);
        if others.is_none() {
            return Ok(());
        }
        self.refuse(others, ScanError::UnknownField { name: name.to_owned() })
    }

    /// The value of a key; gives the place of what it holds.
    fn member(&mut self, spot: Spot, event: &Event<'_>) -> Result<Place, ScanError> {
        match self.next {
            // Inside the consumer's own JSON all is their own.
            Next::Any if self.frames.last().is_some_and(|frame| frame.place == Place::Own) => Ok(Place::Own),
            Next::Any | Next::Unknown => Ok(Place::Plain),
            Next::Field(at) => self.field_value(at, spot, event),
            Next::Inner(rule, name) => self.inner_value(rule, name, spot, event),
        }
    }

    fn field_value(&mut self, at: usize, spot: Spot, event: &Event<'_>) -> Result<Place, ScanError> {
        let mut place = Place::Plain;
        for row in rows(self.form, at) {
            if let Takes::Any(inside) | Takes::Object(inside) = row.takes {
                place = inside;
            }
            if let Err(misfit) = fits(row.takes, event) {
                self.refuse(row.vendors, misfit.of(row.name))?;
            }
            match (row.takes, event) {
                (Takes::Model, Event::String(text)) => self.name_model(text.as_str().unwrap_or_default())?,
                (Takes::Stream, Event::Bool(stream)) => self.stream = Some(*stream),
                _ => {}
            }
        }
        if *event != Event::Null {
            self.given |= bit(at);
        }
        self.tally.stream_options(spot, event);
        Ok(place)
    }

    fn name_model(&mut self, name: &str) -> Result<(), ScanError> {
        self.model = Some(name.to_owned());
        if is_fine_tuned(name) { self.refuse(Vendors::ALL, ScanError::FineTuned) } else { Ok(()) }
    }

    fn inner_value(&mut self, rule: Rule, name: Name, spot: Spot, event: &Event<'_>) -> Result<Place, ScanError> {
        if let Err(misfit) = fits(rule.takes, event) {
            self.refuse(Vendors::ALL, misfit.of(&name.text()))?;
        }
        let says_usage = rule.mark == Marks::INCLUDE_USAGE;
        if says_usage || (rule.mark != Marks::NONE && *event != Event::Null) {
            self.mark(rule.mark, name)?;
        }
        if says_usage {
            self.tally.include_usage(spot, *event == Event::Bool(true));
        }
        if let (true, Event::String(kind)) = (rule.is_kind, event) {
            self.kind(*kind)?;
        }
        Ok(if let Takes::Any(place) | Takes::Object(place) = rule.takes { place } else { Place::Plain })
    }

    fn mark(&mut self, mark: Marks, name: Name) -> Result<(), ScanError> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        let twice = frame.has.has(mark);
        frame.has = frame.has.and(mark);
        if twice { self.refuse(Vendors::ALL, ScanError::DuplicateKey { key: name.text() }) } else { Ok(()) }
    }

    /// The `type` of the innermost object.
    fn kind(&mut self, name: Text<'_>) -> Result<(), ScanError> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        let place = frame.place;
        let known = name.as_str();
        let Some(at) = place.kinds().iter().position(|kind| Some(kind.name) == known) else {
            let name = shown(name.prefix);
            return self.refuse(Vendors::ALL, ScanError::UnknownKind { what: place.name(), name });
        };
        frame.kind = u8::try_from(at).ok();
        let Some(kind) = place.kinds().get(at) else { return Ok(()) };
        if place.is_tool() {
            self.tally.tool_kind(kind.name);
        }
        match kind.verdict {
            Verdict::Served(needs) => frame.needs = frame.needs.and(needs),
            Verdict::ServedWith(_) => self.searching = Some(kind.name),
            Verdict::Refused(why) => {
                let error = ScanError::RefusedKind { what: place.name(), name: kind.name, why };
                return self.refuse(Vendors::ALL, error);
            }
        }
        Ok(())
    }

    /// The end of an object: it must have what it needs.
    fn close(&mut self, spot: Spot) -> Result<(), ScanError> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        if frame.place == Place::Root && self.frames.is_empty() {
            self.tally.end(spot, self.seen != 0);
            return self.end();
        }
        if frame.place == Place::StreamOptions {
            self.tally.stream_options_end(spot);
        }
        let kind = frame.kind.and_then(|at| frame.place.kinds().get(usize::from(at)));
        if let (Place::MessageTool, Some(kind)) = (frame.place, kind) {
            self.tally.tool(kind.name);
        }
        let untyped = if frame.has.has(Marks::TYPE) { Marks::NONE } else { frame.place.needed_without_type() };
        let Some((needs, _)) = frame.needs.and(untyped).without(frame.has).first() else { return Ok(()) };
        let what = match kind {
            Some(kind) => format!("the {} {:?}", frame.place.name(), kind.name),
            None => format!("a {} without a type", frame.place.name()),
        };
        self.refuse(Vendors::ALL, ScanError::Missing { what, needs })
    }

    /// The end of the body: what concerns all of it.
    pub(super) fn end(&mut self) -> Result<(), ScanError> {
        let is_given = |name: &str| {
            let at = self.form.fields().iter().position(|field| field.name == name);
            at.is_some_and(|at| self.given & bit(at) != 0)
        };
        if let Some((one, other)) = self.form.conflict()
            && is_given(one)
            && is_given(other)
        {
            return self.refuse(Vendors::ALL, ScanError::Conflict { one, other });
        }
        match self.searching {
            Some(tool) if !is_given(MAX_TOOL_CALLS) => {
                let what = format!("the tool {tool:?}");
                self.refuse(Vendors::ALL, ScanError::Missing { what, needs: Marks::MAX_TOOL_CALLS })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The head of a part of a form: which field it is, if its text is to be judged.
    pub(super) fn part(&mut self, head: &PartHead) -> Result<Option<usize>, ScanError> {
        let (base, brackets) = head.name.split_at(head.name.find('[').unwrap_or(head.name.len()));
        let fields = self.form.fields();
        let Some(at) = fields.iter().position(|field| field.name == base) else {
            self.refuse(Vendors::ALL, ScanError::UnknownField { name: shown(head.name.as_bytes()) })?;
            return Ok(None);
        };
        for key in brackets.split(['[', ']']).filter(|key| !key.is_empty()) {
            if let Err(misfit) = reference(key) {
                self.refuse(Vendors::ALL, misfit)?;
            }
        }
        self.tally.part(base);
        let part = fields.get(at).map_or(Part::Once, |field| field.part);
        if part == Part::Once || self.seen & bit(at) == 0 {
            self.see(at)?;
        }
        self.given |= bit(at);
        let expected = match part {
            Part::Once if head.is_file || !brackets.is_empty() => "one part of text, without a file's name",
            Part::Many if head.is_file => "text, without a file's name",
            Part::File if !head.is_file => "a file, with a name",
            Part::Once | Part::Many | Part::File => return Ok((!head.is_file).then_some(at)),
        };
        self.refuse(Vendors::ALL, ScanError::BadValue { key: base.to_owned(), expected: expected.to_owned() })?;
        Ok(None)
    }

    /// More content of a part of a form.
    pub(super) fn part_data(&mut self, len: usize) {
        self.tally.part_data(u64::try_from(len).unwrap_or(u64::MAX));
    }

    /// The text of a part, or `None` when it is too long to be kept.
    pub(super) fn part_text(&mut self, at: usize, text: Option<&str>) -> Result<(), ScanError> {
        if let Some(text) = text {
            self.tally.part_text(text);
        }
        for row in rows(self.form, at) {
            if let Err(misfit) = fits_text(row.takes, text) {
                self.refuse(row.vendors, misfit.of(row.name))?;
            }
            match (row.takes, text) {
                (Takes::Model, Some(name)) => self.name_model(name)?,
                (Takes::Stream, Some(text)) => self.stream = Some(text == "true"),
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes that these vendors' endpoints refuse the body.
    fn refuse(&mut self, whom: Vendors, error: ScanError) -> Result<(), ScanError> {
        let whom = whom.both(self.meant).without(self.refused());
        if whom.is_none() {
            return Ok(());
        }
        self.refusals.push((whom, error));
        self.verdict()
    }

    /// The vendors whose endpoints refuse the body.
    fn refused(&self) -> Vendors {
        self.refusals.iter().fold(Vendors::NONE, |all, (vendors, _)| all.and(*vendors))
    }

    /// An error as soon as nobody is left who would take the body.
    fn verdict(&self) -> Result<(), ScanError> {
        if !self.meant.without(self.refused()).is_none() {
            return Ok(());
        }
        let of_first = self.refusals.iter().find(|(vendors, _)| vendors.has(self.first));
        of_first.map_or(Ok(()), |(_, error)| Err(error.clone()))
    }
}

fn reference(key: &str) -> Result<(), ScanError> {
    let rule = Place::Plain.rule(key);
    rule.map_or(Ok(()), |rule| fits_text(rule.takes, Some("")).map_err(|misfit| misfit.of(key)))
}

/// The rows of one name.
fn rows(form: Form, at: usize) -> &'static [Field] {
    let from = form.fields().get(at..).unwrap_or_default();
    let name = from.first().map(|row| row.name);
    let len = from.iter().take_while(|row| Some(row.name) == name).count();
    from.get(..len).unwrap_or_default()
}

const fn bit(at: usize) -> u64 {
    1 << (at % 64)
}
