//! What a text may mean as a value, and how a value is shown.
//!
//! Invariant: nothing that a key's name or a URL marks as secret is shown.

use super::yaml::Content;
use super::yaml::Node;
use serde_json::Map;
use serde_json::Number;
use serde_json::Value;

/// What a node of a file may mean, the likeliest first. Only the type of the
/// setting can tell the text `10` from the number.
pub(super) fn readings_of_node(node: &Node, default: &Value) -> Vec<Value> {
    let as_typed = value_of_node(node, infer);
    let as_text = value_of_node(node, |text| if infer(text).is_null() { Value::Null } else { text.into() });

    in_order(as_typed, as_text, default)
}

/// What a variable or a flag may mean, the likeliest first. Lists are written
/// with commas.
pub(super) fn readings_of_text(text: &str, default: &Value) -> Vec<Value> {
    let scalars = in_order(infer(text), text.into(), default);
    let items = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let lists = [items().map(infer).collect(), items().map(Value::from).collect()].map(Value::Array);

    if default.is_array() { lists.into() } else { scalars.into_iter().chain(lists).collect() }
}

/// The value as people see it.
pub(super) fn shown(path: &[String], value: &Value) -> String {
    let hidden = match path.last() {
        Some(name) => hide(name, value),
        None => value.clone(),
    };
    hidden.as_str().map_or_else(|| hidden.to_string(), str::to_owned)
}

/// Whether the name of a key marks its value as secret.
pub(super) fn is_secret(name: &str) -> bool {
    ["secret", "password", "passphrase"].iter().any(|ending| name.ends_with(ending))
}

/// Replaces the password of every URL in a text.
pub(super) fn without_passwords(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        let end = after.find(['/', '?', '#', ' ', '"', '`']).unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        shown.push_str(before);
        match authority.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
            Some((user, host)) => shown.push_str(&format!("{user}:[secret]@{host}")),
            None => shown.push_str(authority),
        }
        rest = tail;
    }
    shown + rest
}

fn value_of_node(node: &Node, plain: fn(&str) -> Value) -> Value {
    match &node.content {
        Content::Scalar { text, literal: true } => text.as_str().into(),
        Content::Scalar { text, literal: false } => plain(text),
        Content::List(items) => items.iter().map(|item| value_of_node(item, plain)).collect(),
        Content::Map(entries) => {
            let pairs = entries.iter().map(|entry| (entry.key.clone(), value_of_node(&entry.value, plain)));
            Value::Object(pairs.collect::<Map<_, _>>())
        }
    }
}

fn in_order(as_typed: Value, as_text: Value, default: &Value) -> Vec<Value> {
    if as_typed == as_text {
        vec![as_typed]
    } else if default.is_string() {
        vec![as_text, as_typed]
    } else {
        vec![as_typed, as_text]
    }
}

/// The types of YAML's core schema, without its octal, hexadecimal and
/// infinite numbers.
fn infer(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let number = if let Ok(number) = text.parse::<u64>() {
        Some(Number::from(number))
    } else if let Ok(number) = text.parse::<i64>() {
        Some(Number::from(number))
    } else if text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) {
        text.parse().ok().and_then(Number::from_f64)
    } else {
        None
    };
    number.map_or_else(|| text.into(), Value::Number)
}

fn hide(name: &str, value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        _ if is_secret(name) => "[secret]".into(),
        Value::String(text) => without_passwords(text).into(),
        Value::Array(items) => items.iter().map(|item| hide(name, item)).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), hide(name, value))).collect())
        }
        Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plain_text_has_the_type_it_looks_like() {
        let cases = [
            ("9000", json!(9000)),
            ("-5", json!(-5)),
            ("18446744073709551615", json!(u64::MAX)),
            ("0.25", json!(0.25)),
            ("1e3", json!(1000.0)),
            ("true", json!(true)),
            ("~", Value::Null),
            ("yes", json!("yes")),
            ("127.0.0.1:9000", json!("127.0.0.1:9000")),
            ("1.2.3", json!("1.2.3")),
            ("inf", json!("inf")),
            ("1e999", json!("1e999")),
            ("e", json!("e")),
            ("0x10", json!("0x10")),
        ];
        for (text, value) in cases {
            assert_eq!(infer(text), value, "{text}");
        }
    }

    #[test]
    fn the_default_says_which_reading_comes_first() {
        assert_eq!(readings_of_text("10", &json!("x"))[..2], [json!("10"), json!(10)]);
        assert_eq!(readings_of_text("10", &json!(1))[..2], [json!(10), json!("10")]);
        assert_eq!(readings_of_text("a, 2,", &json!([])), [json!(["a", 2]), json!(["a", "2"])]);
        assert_eq!(readings_of_text("", &json!(["x"])), [json!([]), json!([])]);
    }

    #[test]
    fn secrets_are_not_shown_wherever_they_stand() {
        let cases = [
            ("seal.passphrase", json!("hunter2"), "[secret]"),
            ("token_secret", json!(["hunter2"]), "[secret]"),
            ("backup", json!({"password": "hunter2", "user": "a"}), r#"{"password":"[secret]","user":"a"}"#),
            ("store.url", json!("mysql://a:hunter2@h:1/db?x=1"), "mysql://a:[secret]@h:1/db?x=1"),
            ("urls", json!(["redis://:hunter2@h", "http://h/@x"]), r#"["redis://:[secret]@h","http://h/@x"]"#),
            ("password", Value::Null, "null"),
            ("listen", json!("127.0.0.1:9000"), "127.0.0.1:9000"),
        ];
        for (path, value, text) in cases {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            assert_eq!(shown(&path, &value), text);
        }
    }
}
