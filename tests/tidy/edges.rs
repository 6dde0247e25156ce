//! Directions: which crate may depend on which, and which room may name which.
//!
//! Invariant: what the tables do not allow is refused, and the tables have no way back.

use super::report;
use super::source::Source;
use super::source::read;
use super::source::sources;

/// A room and the rooms it may name.
type Row = (&'static str, &'static [&'static str]);

/// Crates of ours that a crate's manifest may name.
const CRATES: &[Row] = &[
    ("protocol", &[]),
    ("daemon", &["protocol"]),
    ("hub", &["daemon", "protocol"]),
    ("agent", &["daemon", "protocol"]),
    ("tests", &["agent", "daemon", "hub", "protocol"]),
    ("tests/demo", &["agent", "daemon", "hub", "protocol"]),
    ("tests/worlds", &["protocol"]),
];

/// Rooms of each shipped crate, from the rim inwards.
const ROOMS: &[(&str, &[Row])] = &[
    (
        "protocol",
        &[
            ("link", &["frame"]),
            ("handshake", &["error_code", "frame", "hex", "id", "version"]),
            (
                "frame",
                &[
                    "cbor",
                    "chain",
                    "error_code",
                    "hex",
                    "id",
                    "key_list",
                    "metering",
                    "money",
                    "price",
                    "provider",
                    "statement",
                    "ticket",
                    "usage",
                ],
            ),
            ("join_token", &["hex", "id", "pin"]),
            ("settle", &["money", "statement"]),
            ("statement", &["cbor", "chain", "hex", "id", "key_list", "leaf", "money", "sealed", "signing", "usage"]),
            ("chain", &["cbor", "hex", "id", "key_list", "leaf", "money", "signing", "ticket"]),
            ("leaf", &["cbor", "hex", "id", "key_list", "metering", "money", "price", "signing", "ticket", "usage"]),
            ("ticket", &["cbor", "hex", "id", "key_list", "money", "sealed", "signing"]),
            ("ledger_sync", &["leaf", "signing"]),
            ("key_list", &["cbor", "hex", "id", "signing"]),
            ("sealed", &["id", "money"]),
            ("content_digest", &["hex"]),
            ("signing", &["cbor", "hex"]),
            ("cbor", &[]),
            ("metering", &["demand", "money", "price", "provider", "usage"]),
            ("provider", &["error_code", "usage"]),
            ("request_scan", &["demand", "error_code", "json_scan", "provider", "websocket"]),
            ("demand", &[]),
            ("pin", &["hex"]),
            ("error_code", &[]),
            ("hex", &[]),
            ("id", &[]),
            ("json_scan", &[]),
            ("assist", &["json_scan", "request_scan"]),
            ("quote", &["demand", "error_code", "money", "price", "usage"]),
            ("price", &["hex", "money", "provider", "usage"]),
            ("usage", &["json_scan", "websocket"]),
            ("money", &[]),
            // Numbers from a seed, for tests only.
            ("random", &[]),
            ("version", &[]),
            ("websocket", &[]),
        ],
    ),
    (
        "daemon",
        &[
            ("admin", &["tasks"]),
            ("cli", &["config", "failure", "terminal"]),
            ("config", &["failure"]),
            ("files", &["failure"]),
            ("telemetry", &["failure", "terminal"]),
            ("failure", &["terminal"]),
            ("clock", &[]),
            ("hardening", &[]),
            ("link", &[]),
            ("tasks", &[]),
            ("terminal", &[]),
            ("tls", &[]),
        ],
    ),
    (
        "hub",
        &[
            ("main", &["cli"]),
            (
                "cli",
                &[
                    "app",
                    "config",
                    "key_policy",
                    "keys",
                    "listening",
                    "pricing",
                    "registry",
                    "settlement",
                    "store",
                    "user_gateway",
                ],
            ),
            (
                "app",
                &[
                    "agent_gateway",
                    "config",
                    "directory",
                    "handover",
                    "listening",
                    "pricing",
                    "registry",
                    "settlement",
                    "status",
                    "store",
                    "user_gateway",
                ],
            ),
            ("status", &["agent_gateway", "user_gateway"]),
            (
                "user_gateway",
                &[
                    "agent_gateway",
                    "config",
                    "consumer_api",
                    "directory",
                    "dispatch",
                    "key_policy",
                    "keys",
                    "pricing",
                    "settlement",
                ],
            ),
            ("dispatch", &["agent_gateway"]),
            ("agent_gateway", &["config", "directory", "pricing", "registry", "settlement", "store"]),
            ("registry", &["api_key", "config", "key_policy", "keys", "store"]),
            ("directory", &["api_key", "key_policy", "store"]),
            ("consumer_api", &["directory", "key_policy", "pricing", "settlement", "store"]),
            ("settlement", &["key_policy", "store"]),
            ("keys", &["store"]),
            ("listening", &["config"]),
            ("pricing", &["keys", "store"]),
            ("api_key", &[]),
            ("config", &[]),
            ("handover", &[]),
            ("store", &["key_policy"]),
            ("key_policy", &[]),
        ],
    ),
    (
        "agent",
        &[
            ("main", &["cli", "provider"]),
            ("cli", &["app", "config", "enrol", "ledger", "provider", "status", "vault"]),
            (
                "app",
                &["config", "hub_keys", "link", "offers", "orders", "prices", "provider", "relay", "status", "vault"],
            ),
            ("enrol", &["link", "provider", "vault"]),
            ("link", &["hub_keys", "offers", "prices", "provider", "relay", "status", "vault"]),
            ("offers", &["provider", "status", "vault"]),
            ("relay", &["config", "offers", "orders", "prices", "provider", "status", "vault"]),
            ("orders", &["hub_keys", "prices"]),
            ("provider", &["vault"]),
            ("config", &[]),
            ("prices", &["hub_keys"]),
            ("hub_keys", &[]),
            ("status", &[]),
            ("ledger", &[]),
            ("vault", &[]),
        ],
    ),
];

/// Names that `lib.rs` shows, and the room they are from.
const FACES: &[(&str, &str)] = &[("ErrorCode", "error_code")];

#[test]
fn crates_depend_only_downwards() {
    let mut findings = Vec::new();
    for (dir, allowed) in CRATES {
        let path = format!("{dir}/Cargo.toml");
        for (at, line) in read(&path).lines().enumerate() {
            let Some(dependency) = line.strip_prefix("keyhaven-") else { continue };
            let name = dependency.split(['.', ' ', '=']).next().unwrap_or_default();
            if !allowed.contains(&name) {
                findings.push(format!(
                    "{path}:{}: {dir} may not depend on keyhaven-{name}; move what both need into protocol or daemon",
                    at + 1
                ));
            }
        }
    }
    report("Crates point down: hub and agent never name each other, only tests and demo name both.", &findings);
}

#[test]
fn rooms_name_only_the_rooms_their_row_allows() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.is_shipped()) {
        let rows = ROOMS.iter().find(|(name, _)| *name == source.crate_dir()).map_or(&[][..], |(_, rows)| rows);
        let room = source.room();
        if room == "lib" {
            continue;
        }
        let Some((_, allowed)) = rows.iter().find(|(name, _)| *name == room) else {
            findings.push(format!(
                "{}:1: room {room} has no row in tests/tidy/edges.rs; give it one, in its tier",
                source.path
            ));
            continue;
        };
        for (line, named) in rooms_named(source) {
            if named != room && !allowed.contains(&named.as_str()) {
                findings.push(format!(
                    "{}:{line}: room {room} may not name {named}; hand in what it needs, or make the edge a design change in tests/tidy/edges.rs and ARCHITECTURE.md",
                    source.path
                ));
            }
        }
    }
    report("Rooms point inwards; data walks through them in a straight line.", &findings);
}

#[test]
fn every_edge_of_the_table_is_used() {
    let sources = sources();
    let mut findings = Vec::new();
    for (name, rows) in ROOMS {
        for (room, allowed) in *rows {
            let mine = sources
                .iter()
                .filter(|source| source.is_shipped() && source.crate_dir() == *name && source.room() == *room);
            let named: Vec<String> = mine.flat_map(rooms_named).map(|(_, named)| named).collect();
            let stale = allowed.iter().filter(|inner| !named.iter().any(|named| named == *inner));
            findings.extend(stale.map(|inner| {
                format!("tests/tidy/edges.rs: in {name}, {room} does not name {inner} any more; take the edge out")
            }));
        }
    }
    report("The tables say what is, so that a new edge is seen.", &findings);
}

#[test]
fn the_tables_of_directions_have_no_way_back() {
    let mut findings = Vec::new();
    for (name, rows) in ROOMS {
        for (room, allowed) in *rows {
            for inner in *allowed {
                if reaches(rows, inner, room, &mut Vec::new()) {
                    findings.push(format!("tests/tidy/edges.rs: in {name}, {room} -> {inner} leads back to {room}"));
                }
            }
        }
    }
    report("No room is reached from a room that it names.", &findings);
}

/// Every room that shipped code names, with its line.
fn rooms_named(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, code) in source.shipped_code() {
        for (at, _) in code.match_indices("crate::") {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let name = first_name(&code[at + "crate::".len()..]);
            found.push((line, in_room(name)));
        }
        if let Some(name) = climbed(source, code) {
            found.push((line, in_room(name)));
        }
        // A program names the rooms of its library by the library's name.
        let library = format!("use keyhaven_{}::", source.crate_dir());
        if let Some(path) = code.strip_prefix(&library) {
            found.push((line, in_room(first_name(path))));
        }
    }
    found.retain(|(_, room)| !room.is_empty());
    found
}

/// The room that a `use super::...` at the margin reaches above the crate's top.
fn climbed<'a>(source: &Source, code: &'a str) -> Option<&'a str> {
    let mut path = code.strip_prefix("pub ").unwrap_or(code).strip_prefix("use ")?;
    let inner = source.path.split_once("/src/")?.1;
    let mut depth = inner.split('/').count();
    if inner.ends_with("/mod.rs") {
        depth -= 1;
    }
    while let Some(above) = path.strip_prefix("super::") {
        depth = depth.checked_sub(1)?;
        path = above;
    }
    (depth == 0).then(|| first_name(path))
}

fn first_name(path: &str) -> &str {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    &path[..end]
}

fn in_room(name: &str) -> String {
    let face = FACES.iter().find(|(shown, _)| *shown == name);
    face.map_or(name, |(_, room)| room).to_owned()
}

fn reaches<'a>(rows: &[Row], from: &'a str, to: &str, seen: &mut Vec<&'a str>) -> bool {
    if from == to {
        return true;
    }
    if seen.contains(&from) {
        return false;
    }
    seen.push(from);
    let allowed = rows.iter().find(|(room, _)| *room == from).map_or(&[][..], |(_, allowed)| allowed);
    allowed.iter().any(|next| reaches(rows, next, to, seen))
}
