//! Values of `type` that decide what a request may do: tools, items, blocks, environments.
//!
//! Invariant: a `type` that no list names is refused; a tool that the vendor itself runs is
//! served only with a bound on its calls.

use super::field::Why;
use super::place::Marks;

/// One value of `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The value.
    pub name: &'static str,
    /// Whether it is served.
    pub verdict: Verdict,
}

/// Whether a kind is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is, when its object has these.
    Served(Marks),
    /// It is, when the body has these.
    ServedWith(Marks),
    /// It is not.
    Refused(Why),
}

const fn served(name: &'static str) -> Kind {
    needing(name, Marks::NONE)
}

const fn needing(name: &'static str, marks: Marks) -> Kind {
    Kind { name, verdict: Verdict::Served(marks) }
}

const fn searching(name: &'static str) -> Kind {
    Kind { name, verdict: Verdict::ServedWith(Marks::MAX_TOOL_CALLS) }
}

const fn refused(name: &'static str, why: Why) -> Kind {
    Kind { name, verdict: Verdict::Refused(why) }
}

/// Tools of chat completions.
pub const CHAT_TOOLS: &[Kind] = &[served("function"), served("custom")];

/// Tools of responses.
pub const RESPONSE_TOOLS: &[Kind] = &[
    served("function"),
    served("custom"),
    served("namespace"),
    served("tool_search"),
    served("local_shell"),
    served("apply_patch"),
    served("computer"),
    served("computer_use_preview"),
    needing("shell", Marks::ENVIRONMENT),
    searching("web_search"),
    searching("web_search_2025_08_26"),
    searching("web_search_preview"),
    searching("web_search_preview_2025_03_11"),
    refused("file_search", Why::Stored),
    refused("code_interpreter", Why::Machine),
    refused("programmatic_tool_calling", Why::Machine),
    refused("image_generation", Why::OtherModel),
    refused("mcp", Why::Connector),
];

/// Tools of a realtime session.
pub const SESSION_TOOLS: &[Kind] = &[served("function"), refused("mcp", Why::Connector)];

/// Items of a realtime session. A reference there is to an item of the same session.
pub const SESSION_ITEMS: &[Kind] = &[
    served("message"),
    served("function_call"),
    served("function_call_output"),
    served("item_reference"),
    refused("mcp_approval_request", Why::Connector),
    refused("mcp_approval_response", Why::Connector),
    refused("mcp_call", Why::Connector),
    refused("mcp_list_tools", Why::Connector),
];

/// Where a shell may run.
pub const ENVIRONMENTS: &[Kind] =
    &[served("local"), refused("container_auto", Why::Machine), refused("container_reference", Why::Stored)];

/// Items of a response's input.
pub const RESPONSE_ITEMS: &[Kind] = &[
    served("message"),
    served("function_call"),
    served("function_call_output"),
    served("custom_tool_call"),
    served("custom_tool_call_output"),
    served("web_search_call"),
    served("computer_call"),
    served("computer_call_output"),
    served("local_shell_call"),
    served("local_shell_call_output"),
    served("shell_call"),
    served("shell_call_output"),
    served("apply_patch_call"),
    served("apply_patch_call_output"),
    served("tool_search_call"),
    served("tool_search_output"),
    served("additional_tools"),
    served("configuration_update"),
    needing("reasoning", Marks::ENCRYPTED),
    needing("compaction", Marks::ENCRYPTED),
    served("compaction_trigger"),
    refused("item_reference", Why::Stored),
    refused("file_search_call", Why::Stored),
    refused("code_interpreter_call", Why::Machine),
    refused("program", Why::Machine),
    refused("program_output", Why::Machine),
    refused("image_generation_call", Why::Stored),
    refused("mcp_list_tools", Why::Connector),
    refused("mcp_approval_request", Why::Connector),
    refused("mcp_approval_response", Why::Connector),
    refused("mcp_call", Why::Connector),
];

/// Tools of Anthropic's form; one without a `type` is the consumer's own.
pub const ANTHROPIC_TOOLS: &[Kind] = &[
    served("custom"),
    served("bash_20241022"),
    served("bash_20250124"),
    served("text_editor_20241022"),
    served("text_editor_20250124"),
    served("text_editor_20250429"),
    served("text_editor_20250728"),
    served("computer_20241022"),
    served("computer_20250124"),
    served("computer_20251124"),
    served("computer_toolset_20260801"),
    served("browser_toolset_20260801"),
    served("memory_20250818"),
    served("tool_search_tool_bm25"),
    served("tool_search_tool_bm25_20251119"),
    served("tool_search_tool_regex"),
    served("tool_search_tool_regex_20251119"),
    needing("web_search_20250305", Marks::MAX_USES),
    needing("web_search_20260209", Marks::MAX_USES),
    needing("web_search_20260318", Marks::MAX_USES),
    needing("web_fetch_20250910", Marks::MAX_USES),
    needing("web_fetch_20260209", Marks::MAX_USES),
    needing("web_fetch_20260309", Marks::MAX_USES),
    needing("web_fetch_20260318", Marks::MAX_USES),
    refused("code_execution_20250522", Why::Machine),
    refused("code_execution_20250825", Why::Machine),
    refused("code_execution_20260120", Why::Machine),
    refused("code_execution_20260521", Why::Machine),
    refused("advisor_20260301", Why::OtherModel),
    refused("mcp_toolset", Why::Connector),
];

/// Blocks of content in Anthropic's form.
pub const ANTHROPIC_BLOCKS: &[Kind] = &[
    served("text"),
    served("image"),
    served("document"),
    served("search_result"),
    served("thinking"),
    served("redacted_thinking"),
    served("tool_use"),
    served("tool_result"),
    served("tool_reference"),
    served("server_tool_use"),
    served("web_search_tool_result"),
    served("web_search_result"),
    served("web_search_tool_result_error"),
    served("web_fetch_tool_result"),
    served("web_fetch_result"),
    served("web_fetch_tool_result_error"),
    served("tool_search_tool_result"),
    served("tool_search_tool_search_result"),
    served("tool_search_tool_result_error"),
    served("browser_state"),
    served("compaction"),
    served("tool_removal"),
    refused("tool_addition", Why::Unbounded),
    refused("fallback", Why::OtherModel),
    refused("advisor_tool_result", Why::OtherModel),
    refused("container_upload", Why::Stored),
    refused("code_execution_tool_result", Why::Machine),
    refused("bash_code_execution_tool_result", Why::Machine),
    refused("text_editor_code_execution_tool_result", Why::Machine),
    refused("mcp_tool_use", Why::Connector),
    refused("mcp_tool_result", Why::Connector),
    refused("mcp_tool_listing", Why::Connector),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_list_names_a_kind_once() {
        for list in [CHAT_TOOLS, RESPONSE_TOOLS, ENVIRONMENTS, RESPONSE_ITEMS, ANTHROPIC_TOOLS, ANTHROPIC_BLOCKS] {
            let mut seen = HashSet::new();
            for kind in list {
                assert!(seen.insert(kind.name), "{}", kind.name);
            }
        }
    }
}
