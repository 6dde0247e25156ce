//! The documents say what the code does: errors, headers, metrics, protocol, vectors.
//!
//! Invariant: a table that people rely on cannot drift from the table that runs.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use bytes::BufMut;
use bytes::BytesMut;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::provider::headers::AuthForm;
use keyhaven_protocol::provider::headers::HANDSHAKE_PASSED;
use keyhaven_protocol::provider::headers::REQUEST_DROPPED;
use keyhaven_protocol::provider::headers::RESPONSE_DROPPED;
use keyhaven_protocol::provider::headers::Rule;
use keyhaven_protocol::provider::headers::SUBPROTOCOLS_DROPPED;
use keyhaven_protocol::provider::native_error::status_of;
use keyhaven_protocol::provider::policy::beta::ANTHROPIC_BETAS;
use keyhaven_protocol::provider::policy::beta::OPENAI_BETAS;
use keyhaven_protocol::provider::policy::field::Class;
use keyhaven_protocol::provider::policy::field::Takes;
use keyhaven_protocol::provider::policy::form::Form;
use keyhaven_protocol::provider::policy::kind::ANTHROPIC_BLOCKS;
use keyhaven_protocol::provider::policy::kind::ANTHROPIC_TOOLS;
use keyhaven_protocol::provider::policy::kind::CHAT_TOOLS;
use keyhaven_protocol::provider::policy::kind::ENVIRONMENTS;
use keyhaven_protocol::provider::policy::kind::Kind;
use keyhaven_protocol::provider::policy::kind::RESPONSE_ITEMS;
use keyhaven_protocol::provider::policy::kind::RESPONSE_TOOLS;
use keyhaven_protocol::provider::policy::kind::SESSION_ITEMS;
use keyhaven_protocol::provider::policy::kind::SESSION_TOOLS;
use keyhaven_protocol::provider::policy::kind::Verdict;
use keyhaven_protocol::provider::policy::place::Marks;
use keyhaven_protocol::provider::policy::place::REFERENCES;
use keyhaven_protocol::provider::policy::query::parameters;

use super::generated::check;
use super::generated::code;
use super::generated::table;
use super::report;
use super::source::paths;
use super::source::read;
use super::source::sources;

/// The blocks of the error table: first number, name in the document, title.
const BLOCKS: &[(u16, &str)] =
    &[(1000, "link"), (2000, "call"), (3000, "configuration"), (4000, "vault"), (5000, "running")];

#[test]
fn the_error_table_is_the_one_in_the_code() {
    let mut findings = Vec::new();
    for (first, name) in BLOCKS {
        let block = ErrorCode::ALL.iter().filter(|code| code.number() / 1000 == first / 1000);
        check("docs/ERRORS.md", name, &error_table(block.copied(), *first == 2000), &mut findings);
    }
    let beyond =
        ErrorCode::ALL.iter().filter(|code| !BLOCKS.iter().any(|(first, _)| code.number() / 1000 == first / 1000));
    findings.extend(
        beyond.map(|code| format!("protocol/src/error_code.rs: {code} is in no block of tests/tidy/documents.rs")),
    );
    report("docs/ERRORS.md is made from protocol/src/error_code.rs.", &findings);
}

#[test]
fn the_header_lists_are_the_ones_in_the_code() {
    let mut findings = Vec::new();
    check("docs/HEADERS.md", "request-dropped", &header_table(REQUEST_DROPPED), &mut findings);
    check("docs/HEADERS.md", "handshake-passed", &header_table(HANDSHAKE_PASSED), &mut findings);
    check("docs/HEADERS.md", "subprotocols-dropped", &header_table(SUBPROTOCOLS_DROPPED), &mut findings);
    check("docs/HEADERS.md", "response-dropped", &header_table(RESPONSE_DROPPED), &mut findings);
    let added = "keyhaven-call-id";
    let in_code = sources().iter().any(|source| {
        source.path.starts_with("hub/src/user_gateway/") && source.shipped_literals().any(|(_, text)| text == added)
    });
    if !(in_code && read("docs/HEADERS.md").contains(added)) {
        findings
            .push(format!("docs/HEADERS.md:1: the header that the hub adds, {added}, is not both in the hub and here"));
    }
    report("docs/HEADERS.md is made from protocol/src/provider/headers.rs.", &findings);
}

#[test]
fn the_lists_of_fields_are_the_ones_in_the_code() {
    const PAGE: &str = "docs/FIELDS.md";
    let mut findings = Vec::new();
    for form in Form::ALL {
        check(PAGE, &form.title().to_lowercase(), &field_table(*form), &mut findings);
    }
    for (name, kinds) in [
        ("chat tools", CHAT_TOOLS),
        ("response tools", RESPONSE_TOOLS),
        ("message tools", ANTHROPIC_TOOLS),
        ("response items", RESPONSE_ITEMS),
        ("message blocks", ANTHROPIC_BLOCKS),
        ("environments", ENVIRONMENTS),
        ("session tools", SESSION_TOOLS),
        ("session items", SESSION_ITEMS),
    ] {
        check(PAGE, name, &kind_table(kinds), &mut findings);
    }
    let references = REFERENCES.iter().map(|(key, why)| [code(key), why.short().to_owned()]);
    check(PAGE, "references", &table(["key", "because it"], references), &mut findings);
    for (name, betas) in [("anthropic-beta", ANTHROPIC_BETAS), ("openai-beta", OPENAI_BETAS)] {
        check(PAGE, name, &betas.iter().map(|beta| format!("- {}\n", code(beta))).collect::<String>(), &mut findings);
    }
    check(PAGE, "queries", &query_table(), &mut findings);
    report("docs/FIELDS.md is made from protocol/src/provider/policy/.", &findings);
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() {
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    for source in sources().iter().filter(|source| source.is_shipped()) {
        for (line, text) in source.shipped_literals().filter(|(_, text)| is_metric(text)) {
            used.entry(text.to_owned()).or_insert_with(|| format!("{}:{line}", source.path));
        }
    }
    let documented: BTreeSet<String> =
        read("docs/METRICS.md").split('`').filter(|word| is_metric(word)).map(str::to_owned).collect();
    let mut findings: Vec<String> = Vec::new();
    for (name, place) in &used {
        if !documented.contains(name) {
            findings.push(format!(
                "{place}: {name} is not in docs/METRICS.md; add what it counts, its unit and its labels"
            ));
        }
    }
    let gone = documented.iter().filter(|name| !used.contains_key(*name));
    findings.extend(gone.map(|name| format!("docs/METRICS.md:1: {name} is not in the code any more; remove it")));
    report("docs/METRICS.md lists exactly the metrics there are.", &findings);
}

#[test]
fn the_protocol_page_names_every_frame_reason_and_endpoint() {
    const PAGE: &str = "docs/PROTOCOL.md";
    let text = read(PAGE);
    let has_row = |cells: &[String]| {
        text.lines().any(|line| line.starts_with('|') && cells.iter().all(|cell| line.contains(cell.as_str())))
    };
    let mut findings = Vec::new();
    for kind in FrameKind::ALL {
        let name = format!("{kind:?}").to_uppercase();
        let cells =
            [code(format!("0x{:02X}", kind.number())), code(&name), format!("| {} |", kind.payload_bytes_max())];
        if !has_row(&cells) {
            findings.push(format!("{PAGE}:1: no row of a table has {}", cells.join(" and ")));
        }
    }
    for reason in abort_reasons() {
        let cells = [format!("| {} |", reason.number()), code(reason.name())];
        if !has_row(&cells) {
            findings.push(format!("{PAGE}:1: no row of a table has {}", cells.join(" and ")));
        }
    }
    check(PAGE, "endpoints", &endpoint_table(), &mut findings);
    report("docs/PROTOCOL.md is the protocol.", &findings);
}

#[test]
fn every_frame_has_one_golden_vector() {
    const VECTORS: &str = "protocol/vectors/frames.hex";
    let mut kinds = Vec::new();
    let mut findings = Vec::new();
    for (at, line) in read(VECTORS).lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        match line.get(..2).and_then(|byte| u8::from_str_radix(byte, 16).ok()).and_then(FrameKind::from_number) {
            Some(kind) => kinds.push(kind),
            None => findings.push(format!("{VECTORS}:{}: not the hex of a known frame", at + 1)),
        }
    }
    for kind in FrameKind::ALL {
        let count = kinds.iter().filter(|found| *found == kind).count();
        if count != 1 {
            findings.push(format!("{VECTORS}:1: {kind:?} has {count} vectors; it needs exactly one"));
        }
    }
    report("A frame's bytes are frozen by a vector.", &findings);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let all = paths();
    let mut findings = Vec::new();
    for path in all.iter().filter(|path| path.ends_with(".md")) {
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        for (at, line) in read(path).lines().enumerate() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let file = target.split('#').next().unwrap_or_default();
                let is_ours = !file.is_empty() && !file.contains("://");
                if is_ours && !all.contains(&resolved(dir, file)) {
                    findings.push(format!("{path}:{}: {target} leads nowhere", at + 1));
                }
            }
        }
    }
    report("A link in a document leads to a file of the workspace.", &findings);
}

fn error_table(block: impl Iterator<Item = ErrorCode>, with_status: bool) -> String {
    let yes = |retryable: bool| if retryable { "yes" } else { "no" }.to_owned();
    if with_status {
        let rows = block.map(|error| {
            [
                code(error),
                status_of(error).as_u16().to_string(),
                yes(error.retryable()),
                error.cause().to_owned(),
                error.fix().to_owned(),
            ]
        });
        return table(["code", "HTTP", "retry", "cause", "fix"], rows);
    }
    let exit = |error: ErrorCode| format!("{:?}", error.exit()).to_lowercase();
    let rows = block.map(|error| {
        [code(error), exit(error), yes(error.retryable()), error.cause().to_owned(), error.fix().to_owned()]
    });
    table(["code", "exit", "retry", "cause", "fix"], rows)
}

fn header_table(rules: &[Rule]) -> String {
    table(["header", "because it"], rules.iter().map(|rule| [code(rule.name), rule.reason.to_owned()]))
}

/// Fields in the order of the code: name, vendors, what it means, what it may be.
fn field_table(form: Form) -> String {
    let users = Endpoint::ALL.iter().filter(|endpoint| form.is_spoken_at(**endpoint));
    let users: BTreeSet<Provider> = users.map(|endpoint| endpoint.provider()).collect();
    let rows = form.fields().iter().filter_map(|field| {
        let of: Vec<&str> = users.iter().filter(|it| field.vendors.has(**it)).map(|it| it.title()).collect();
        let whose = if of.len() == users.len() { "all".to_owned() } else { of.join(", ") };
        let meaning = match field.class {
            Class::Free => "free".to_owned(),
            Class::CostBearing(bound) => format!("costs: {}", bound.text()),
            Class::Checked => "checked".to_owned(),
            Class::Refused(why) => format!("**refused**: {}", why.short()),
        };
        let value = match field.takes {
            Takes::Any(_) => String::new(),
            Takes::Object(_) => "an object".to_owned(),
            Takes::Model => "a name, no fine-tuned model".to_owned(),
            Takes::Stream => "`true`, `false`".to_owned(),
            Takes::Text => "a string".to_owned(),
            Takes::Whole(least, most) => format!("{least} to {most}"),
            Takes::OneOf(list) => list.iter().map(code).collect::<Vec<_>>().join(", "),
            Takes::False(_) => "`false`".to_owned(),
            Takes::Nothing(_) => "nothing".to_owned(),
        };
        (!of.is_empty()).then(|| [code(field.name), whose, meaning, value])
    });
    table(["field", "vendors", "meaning", "value"], rows)
}

fn kind_table(kinds: &[Kind]) -> String {
    let rows = kinds.iter().map(|kind| {
        let verdict = match kind.verdict {
            Verdict::Served(Marks::NONE) => "served".to_owned(),
            Verdict::Served(marks) => format!("served with {} in it", code(marks.name().unwrap_or_default())),
            Verdict::ServedWith(marks) => format!("served with {} in the body", code(marks.name().unwrap_or_default())),
            Verdict::Refused(why) => format!("**refused**: {}", why.short()),
        };
        [code(kind.name), verdict]
    });
    table(["`type`", "is"], rows)
}

fn query_table() -> String {
    let rows = Endpoint::ALL.iter().filter(|endpoint| !endpoint.served_by_hub()).filter_map(|endpoint| {
        let takes = parameters(*endpoint);
        let names = takes.iter().map(|it| format!("{}: {}", code(it.name), it.value.expected()));
        let call = code(format!("{} {}", endpoint.method(), endpoint.template()));
        let names = names.collect::<Vec<_>>().join("; ");
        (!takes.is_empty()).then(|| [endpoint.provider().title().to_owned(), call, names])
    });
    table(["vendor", "method and path", "parameters"], rows)
}

fn endpoint_table() -> String {
    let rows = Endpoint::ALL.iter().map(|endpoint| {
        let auth = match endpoint.auth() {
            AuthForm::Bearer => "authorization: Bearer",
            AuthForm::XApiKey => "x-api-key",
            AuthForm::ApiKey => "api-key",
        };
        let answer = if endpoint.served_by_hub() { "hub" } else { "vendor" };
        let call = code(format!("{} {}", endpoint.method(), endpoint.template()));
        [endpoint.number().to_string(), endpoint.provider().title().to_owned(), call, code(auth), answer.to_owned()]
    });
    table(["number", "vendor", "method and path at the vendor", "key in", "answered by"], rows)
}

/// Every reason, found by what each number decodes to.
fn abort_reasons() -> Vec<AbortReason> {
    let decoded = (0..=1024_u16).filter_map(|number| {
        let mut payload = BytesMut::new();
        payload.put_u16(number);
        payload.put_bytes(0, 14);
        Abort::decode(payload.freeze()).ok().filter(|abort| abort.reason.number() == number)
    });
    decoded.map(|abort| abort.reason).collect()
}

fn is_metric(text: &str) -> bool {
    let rest = text.strip_prefix("keyhaven_");
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    // Crates have one word after the prefix, metrics a room and a thing.
    rest.is_some_and(|rest| rest.contains('_') && rest.bytes().all(plain))
}

/// A link's target as a path within the workspace.
fn resolved(dir: &str, file: &str) -> String {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in file.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}
