//! The inside of a body: where an object stands, and which of its keys mean something.
//!
//! Invariant: a reference to what the vendor keeps is found at any depth, except in JSON
//! that is the consumer's own and that vendors hand on without reading it.

use super::field::Takes;
use super::field::Why;
use super::kind::ANTHROPIC_BLOCKS;
use super::kind::ANTHROPIC_TOOLS;
use super::kind::CHAT_TOOLS;
use super::kind::ENVIRONMENTS;
use super::kind::Kind;
use super::kind::RESPONSE_ITEMS;
use super::kind::RESPONSE_TOOLS;
use super::kind::SESSION_ITEMS;
use super::kind::SESSION_TOOLS;

/// The most uses of one server tool in one call.
pub const MAX_USES_MOST: u64 = 1000;

/// Models that moderate for nothing.
const MODERATION_MODELS: &[&str] = &["omni-moderation-latest", "omni-moderation-2024-09-26"];

/// Where an object, or each object of a list, stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The body itself.
    Root,
    /// JSON of the consumer's own: schemas, arguments, metadata. Not looked at.
    Own,
    /// Anywhere else: only references are looked for.
    Plain,
    /// A message of chat completions.
    ChatMessage,
    /// A message of Anthropic's form.
    Message,
    /// A block of content of Anthropic's form.
    Block,
    /// The source of an image or a document in Anthropic's form.
    Source,
    /// An item of a response's input.
    Item,
    /// A tool of chat completions.
    ChatTool,
    /// A tool of responses.
    ResponseTool,
    /// A tool of Anthropic's form.
    MessageTool,
    /// The definition of a function.
    Function,
    /// Where a shell runs.
    Environment,
    /// A format of output, with a schema of the consumer's own.
    Format,
    /// How audio should sound.
    Audio,
    /// A moderation beside the call.
    Moderation,
    /// What a stream should say beside the answer.
    StreamOptions,
    /// What a realtime session, or one response in it, should be like.
    Session,
    /// A tool of a realtime session.
    SessionTool,
    /// An item of a realtime session.
    SessionItem,
}

/// A thing that an object has, or needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks(u8);

impl Marks {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A `type`.
    pub const TYPE: Self = Self(1);
    /// A `role`.
    pub const ROLE: Self = Self(2);
    /// A bound on the uses of a server tool.
    pub const MAX_USES: Self = Self(4);
    /// The content itself, sealed by the vendor.
    pub const ENCRYPTED: Self = Self(8);
    /// Where it runs.
    pub const ENVIRONMENT: Self = Self(16);
    /// The body's bound on calls of server tools.
    pub const MAX_TOOL_CALLS: Self = Self(32);
    /// Whether a stream is to state its usage.
    pub const INCLUDE_USAGE: Self = Self(64);

    const NAMES: [(Self, &'static str); 7] = [
        (Self::TYPE, "type"),
        (Self::ROLE, "role"),
        (Self::MAX_USES, "max_uses"),
        (Self::ENCRYPTED, "encrypted_content"),
        (Self::ENVIRONMENT, "environment"),
        (Self::MAX_TOOL_CALLS, "max_tool_calls"),
        (Self::INCLUDE_USAGE, "include_usage"),
    ];

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

    /// Whether all of these are there.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What it is needed for, and how to get it.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ROLE => "an item with an id alone refers to one kept in the account of the key's owner",
            Self::MAX_USES => "the vendor runs this tool itself, and its calls need a bound from 1 to 1000",
            Self::MAX_TOOL_CALLS => "the vendor runs this tool itself, and its calls need a bound from 0 to 1000",
            Self::ENCRYPTED => {
                "without it, it refers to one kept in the account of the key's owner; ask for it with `include: [\"reasoning.encrypted_content\"]`"
            }
            Self::ENVIRONMENT => "only `{\"type\": \"local\"}` is served, where you run the commands yourself",
            _ => "it says what it is",
        }
    }

    /// The key that sets the first of them.
    pub fn name(self) -> Option<&'static str> {
        self.first().map(|(_, name)| name)
    }

    /// The first of them, and the key that sets it.
    pub fn first(self) -> Option<(Self, &'static str)> {
        Self::NAMES.into_iter().find(|(mark, _)| self.0 & mark.0 != 0)
    }
}

/// What a key inside a body asks of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// What the value may be.
    pub takes: Takes,
    /// Whether the value is a `type`, one of the place's kinds.
    pub is_kind: bool,
    /// What a value that is not `null` gives the object; it may then stand only once.
    pub mark: Marks,
}

const fn rule(takes: Takes, mark: Marks) -> Rule {
    Rule { takes, is_kind: false, mark }
}

const fn at(place: Place) -> Rule {
    rule(Takes::Any(place), Marks::NONE)
}

/// Keys that refer to something outside the request, wherever they stand.
pub const REFERENCES: &[(&str, Why)] = &[
    ("file_id", Why::Stored),
    ("file_ids", Why::Stored),
    ("container", Why::Stored),
    ("container_id", Why::Stored),
    ("conversation", Why::Stored),
    ("previous_response_id", Why::Stored),
    ("previous_message_id", Why::Stored),
    ("comparison_response_id", Why::Stored),
    ("approval_request_id", Why::Stored),
    ("vector_store_id", Why::Stored),
    ("vector_store_ids", Why::Stored),
    ("memory_store_id", Why::Stored),
    ("skill_id", Why::Stored),
    ("skills", Why::Stored),
    ("thread", Why::Stored),
    ("data_sources", Why::Connector),
    ("connector_id", Why::Connector),
    ("tunnel_id", Why::Connector),
    ("server_url", Why::Connector),
    ("mcp_servers", Why::Connector),
];

/// The longest key that means something.
pub const KEY_BYTES_MAX: usize = 24;

impl Place {
    /// What this key of an object here asks of its value; `None` when it means nothing,
    /// and in the consumer's own JSON.
    pub fn rule(self, key: &str) -> Option<Rule> {
        if self == Self::Own || key.len() > KEY_BYTES_MAX {
            return None;
        }
        if key == "type" {
            let kind = Rule { takes: Takes::Text, is_kind: true, mark: Marks::TYPE };
            return Some(kind).filter(|_| !self.kinds().is_empty());
        }
        self.special(key).or_else(|| {
            let (_, why) = REFERENCES.iter().find(|(name, _)| *name == key)?;
            Some(rule(Takes::Nothing(*why), Marks::NONE))
        })
    }

    /// Keys that mean something just here.
    fn special(self, key: &str) -> Option<Rule> {
        Some(match (self, key) {
            (Self::ChatTool | Self::ResponseTool | Self::Function, "parameters")
            | (Self::ResponseTool | Self::Function, "output_schema")
            | (Self::MessageTool, "input_schema" | "input_examples")
            | (Self::Block, "input")
            | (Self::Item, "arguments")
            | (Self::Format, "schema") => at(Self::Own),
            (Self::ChatTool, "function" | "custom") => at(Self::Function),
            (Self::Item | Self::ResponseTool, "tools") => at(Self::ResponseTool),
            (Self::Format, "format" | "json_schema") => at(Self::Format),
            (Self::Item, "text") => at(Self::Format),
            (Self::Message | Self::Block | Self::Source, "content") => at(Self::Block),
            (Self::Message, "output_config") => at(Self::Format),
            (Self::Block, "source") => at(Self::Source),
            (Self::Block, "tool" | "tools") => rule(Takes::Nothing(Why::Unbounded), Marks::NONE),
            (Self::Item, "role") => rule(Takes::Text, Marks::ROLE),
            (Self::Item, "encrypted_content") => rule(Takes::Text, Marks::ENCRYPTED),
            (Self::MessageTool, "max_uses") => rule(Takes::Whole(1, MAX_USES_MOST), Marks::MAX_USES),
            (Self::ResponseTool, "environment") => rule(Takes::Any(Self::Environment), Marks::ENVIRONMENT),
            (Self::ChatMessage, "audio") => rule(Takes::Nothing(Why::Stored), Marks::NONE),
            (Self::Audio, "voice") => rule(Takes::Text, Marks::NONE),
            (Self::Session, "tools") => at(Self::SessionTool),
            (Self::Session, "input") => at(Self::SessionItem),
            (Self::Session, "metadata") | (Self::SessionTool, "parameters") => at(Self::Own),
            (Self::Session, "conversation") => rule(Takes::OneOf(&["auto", "none"]), Marks::NONE),
            (Self::Session, "prompt" | "tracing") => rule(Takes::Nothing(Why::Stored), Marks::NONE),
            (Self::StreamOptions, "include_usage") => rule(Takes::Stream, Marks::INCLUDE_USAGE),
            (Self::Moderation, "model") => rule(Takes::OneOf(MODERATION_MODELS), Marks::NONE),
            _ => return None,
        })
    }

    /// What the `type` of an object here may be; empty, where it does not matter.
    pub const fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Block => ANTHROPIC_BLOCKS,
            Self::Item => RESPONSE_ITEMS,
            Self::ChatTool => CHAT_TOOLS,
            Self::ResponseTool => RESPONSE_TOOLS,
            Self::MessageTool => ANTHROPIC_TOOLS,
            Self::Environment => ENVIRONMENTS,
            Self::SessionTool => SESSION_TOOLS,
            Self::SessionItem => SESSION_ITEMS,
            Self::Root
            | Self::Own
            | Self::Plain
            | Self::ChatMessage
            | Self::Message
            | Self::Source
            | Self::Function
            | Self::Format
            | Self::Audio
            | Self::Moderation
            | Self::StreamOptions
            | Self::Session => &[],
        }
    }

    /// Whether an object here is a tool.
    pub fn is_tool(self) -> bool {
        [Self::ChatTool, Self::ResponseTool, Self::MessageTool, Self::SessionTool].contains(&self)
    }

    /// What an object here is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Item | Self::SessionItem => "input item",
            Self::Block => "content block",
            Self::ChatTool | Self::ResponseTool | Self::MessageTool | Self::SessionTool => "tool",
            Self::Environment => "environment",
            Self::Root
            | Self::Own
            | Self::Plain
            | Self::ChatMessage
            | Self::Message
            | Self::Source
            | Self::Function
            | Self::Format
            | Self::Audio
            | Self::Moderation
            | Self::StreamOptions
            | Self::Session => "object",
        }
    }

    /// What an object here needs that has no `type`.
    pub const fn needed_without_type(self) -> Marks {
        match self {
            // An item with an id alone refers to one that the vendor keeps.
            Self::Item => Marks::ROLE,
            Self::ChatTool | Self::ResponseTool | Self::Block | Self::Environment | Self::SessionItem => Marks::TYPE,
            // A tool of the consumer's own.
            Self::MessageTool => Marks::NONE,
            Self::Root
            | Self::Own
            | Self::Plain
            | Self::ChatMessage
            | Self::Message
            | Self::Source
            | Self::Function
            | Self::Format
            | Self::Audio
            | Self::Moderation
            | Self::StreamOptions
            | Self::Session
            // A function need not say that it is one.
            | Self::SessionTool => Marks::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_known_wherever_they_stand_but_in_the_consumers_own_json() {
        for (key, why) in REFERENCES {
            assert!(key.len() <= KEY_BYTES_MAX, "{key}");
            for place in [Place::Plain, Place::Block, Place::Source, Place::Item, Place::Function, Place::ChatMessage] {
                assert_eq!(place.rule(key).unwrap().takes, Takes::Nothing(*why), "{place:?} {key}");
            }
            assert_eq!(Place::Own.rule(key), None);
        }
    }

    #[test]
    fn a_mark_names_the_key_that_sets_it() {
        assert_eq!(Marks::NONE.name(), None);
        assert_eq!(Marks::ROLE.and(Marks::MAX_USES).without(Marks::ROLE).name(), Some("max_uses"));
        for (mark, name) in Marks::NAMES {
            assert_eq!(mark.name(), Some(name));
        }
    }
}
