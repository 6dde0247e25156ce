//! The layers together: what is in force, where it came from, and what a
//! person is told when it is wrong.
//!
//! Invariant: no test here sees the environment of the process that runs it.

use super::*;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    name: String,
    consumer: Consumer,
    offers: Vec<String>,
    ports: Vec<u16>,
    note: Option<String>,
    labels: BTreeMap<String, u32>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Consumer {
    listen: std::net::SocketAddr,
    streams_max: u16,
    strict: bool,
    ratio: f64,
    seal_passphrase: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "hub".to_owned(),
            consumer: Consumer {
                listen: "127.0.0.1:9000".parse().unwrap(),
                streams_max: 100,
                strict: true,
                ratio: 0.5,
                seal_passphrase: String::new(),
            },
            offers: Vec::new(),
            ports: vec![1],
            note: None,
            labels: BTreeMap::new(),
        }
    }
}

#[test]
fn without_any_layer_the_defaults_are_in_force() {
    let loaded = from_layers("", &[], &[]).unwrap();

    assert_eq!(loaded.config, Config::default());
    assert!(loaded.leaves.iter().all(|leaf| leaf.origin == Origin::Default));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let yaml = "name: from-file\nconsumer:\n  streams_max: 1\n  strict: false\n";
    let env = [("KEYHAVEN_HUB_NAME", "from-env"), ("KEYHAVEN_HUB_CONSUMER_STREAMS_MAX", "2")];

    let loaded = from_layers(yaml, &env, &[("name", "from-flag")]).unwrap();

    assert_eq!(loaded.config.name, "from-flag");
    assert_eq!(loaded.config.consumer.streams_max, 2);
    assert!(!loaded.config.consumer.strict);
    assert_eq!(origin_of(&loaded, "name"), Origin::Flag);
    let variable = Origin::Env("KEYHAVEN_HUB_CONSUMER_STREAMS_MAX".to_owned());
    assert_eq!(origin_of(&loaded, "consumer.streams_max"), variable);
    assert!(matches!(origin_of(&loaded, "consumer.strict"), Origin::File { line: 4, .. }));
    assert_eq!(origin_of(&loaded, "consumer.listen"), Origin::Default);
}

#[test]
fn every_kind_of_setting_can_come_from_every_layer() {
    let yaml = "name: 10\noffers: [a, 7]\nports: [2, 3]\nnote: 1.10\nlabels: {x: 1}\nconsumer: {ratio: 2}\n";
    let env = [
        ("KEYHAVEN_HUB_NAME", "10"),
        ("KEYHAVEN_HUB_OFFERS", "a, 7"),
        ("KEYHAVEN_HUB_PORTS", "2,3"),
        ("KEYHAVEN_HUB_NOTE", "1.10"),
        ("KEYHAVEN_HUB_CONSUMER_RATIO", "2"),
    ];

    let mut by_file = from_layers(yaml, &[], &[]).unwrap().config;
    let by_env = from_layers("", &env, &[]).unwrap().config;

    assert_eq!(by_file.labels.remove("x"), Some(1));
    assert_eq!(by_file, by_env);
    assert_eq!((by_env.name.as_str(), by_env.note.as_deref()), ("10", Some("1.10")));
    assert_eq!((by_env.offers, by_env.ports), (vec!["a".to_owned(), "7".to_owned()], vec![2, 3]));
}

#[test]
fn an_unknown_key_is_an_error_with_its_place_and_a_suggestion() {
    let cases = [
        ("nmae: x\n", "FILE:1:1", "unknown key `nmae`; did you mean `name`?"),
        ("consumer:\n  lisen: x\n", "FILE:2:3", "unknown key `consumer.lisen`; did you mean `consumer.listen`?"),
        ("listen: x\n", "FILE:1:1", "unknown key `listen`; did you mean `consumer.listen`?"),
        ("entirely_else: x\n", "FILE:1:1", "unknown key `entirely_else`"),
        ("name: x\n<<: {note: y}\n", "FILE:2:1", "unknown key `<<`"),
    ];
    for (yaml, place, message) in cases {
        assert_failure(from_layers(yaml, &[], &[]), ErrorCode::ConfigInvalid, Some(place), message);
    }
}

#[test]
fn a_value_that_does_not_fit_names_its_place_and_what_was_expected() {
    let cases = [
        (
            "consumer:\n  streams_max: many\n",
            "FILE:2:16",
            "`consumer.streams_max`: expected u16; invalid type: string \"many\"",
        ),
        (
            "consumer:\n  streams_max: 70000\n",
            "FILE:2:16",
            "`consumer.streams_max`: expected u16; invalid value: integer `70000`",
        ),
        (
            "consumer:\n  streams_max: '7'\n",
            "FILE:2:16",
            "`consumer.streams_max`: expected u16; invalid type: string \"7\"",
        ),
        (
            "consumer:\n  strict: yes\n",
            "FILE:2:11",
            "`consumer.strict`: expected a boolean; invalid type: string \"yes\"",
        ),
        ("consumer:\n  listen: nowhere\n", "FILE:2:11", "`consumer.listen`: invalid socket address syntax"),
        ("name:\n  a: 1\n", "FILE:2:3", "`name`: expected a string; invalid type: map"),
        ("name: ~\n", "FILE:1:7", "`name`: expected a string; invalid type: null"),
        ("labels: {x: -1}\n", "FILE:1:9", "`labels`: expected u32; invalid value: integer `-1`"),
        (
            "consumer: 5\n",
            "FILE:1:11",
            "`consumer`: expected a section with the keys listen, ratio, seal_passphrase, streams_max, strict",
        ),
        ("- a\n", "FILE:1:1", "the file must be a mapping of keys to values"),
    ];
    for (yaml, place, message) in cases {
        assert_failure(from_layers(yaml, &[], &[]), ErrorCode::ConfigInvalid, Some(place), message);
    }
}

#[test]
fn the_environment_and_the_command_line_are_held_to_the_same_rules() {
    let invalid = ErrorCode::ConfigInvalid;
    let wrong = [("KEYHAVEN_HUB_CONSUMER_STREAMS_MAX", "many")];
    let place = "environment variable KEYHAVEN_HUB_CONSUMER_STREAMS_MAX";
    let message = "`consumer.streams_max`: expected u16; invalid type: string \"many\"";
    assert_failure(from_layers("", &wrong, &[]), invalid, Some(place), message);

    let unknown = [("KEYHAVEN_HUB_NAMES", "x")];
    let message = "unknown environment variable `KEYHAVEN_HUB_NAMES`; did you mean `KEYHAVEN_HUB_NAME`?";
    assert_failure(from_layers("", &unknown, &[]), invalid, Some("environment"), message);

    let message = "unknown key `consumer.strikt`; did you mean `consumer.strict`?";
    let flags = [("consumer.strikt", "true")];
    assert_failure(from_layers("", &[], &flags), invalid, Some("command line"), message);
}

#[test]
fn variables_of_others_and_ignored_ones_are_left_alone() {
    let env = [("KEYHAVEN_HUB_TOKEN", "x"), ("KEYHAVEN_HUBRIS", "x"), ("KEYHAVEN_AGENT_NAME", "x"), ("HOME", "/")];

    assert_eq!(from_layers("", &env, &[]).unwrap().config, Config::default());
}

#[test]
fn variables_in_the_file_are_expanded_and_missing_ones_listed_together() {
    let env = [("STREAMS", "7"), ("HOST", "10.0.0.1")];
    let yaml = "# ${COMMENT}\nconsumer:\n  streams_max: ${STREAMS}\n  listen: ${HOST}:80\n";
    let loaded = from_layers(yaml, &env, &[]).unwrap();
    assert_eq!(loaded.config.consumer.streams_max, 7);
    assert_eq!(loaded.config.consumer.listen.to_string(), "10.0.0.1:80");

    let missing = from_layers("name: ${ONE}\nnote: a ${TWO}\n", &env, &[]);

    let message = "not set: ONE (line 1), TWO (line 2)";
    assert_failure(missing, ErrorCode::ConfigVariableMissing, Some("FILE:1:7"), message);
}

#[test]
fn a_section_whose_keys_are_all_commented_out_is_empty() {
    let loaded = from_layers("consumer:\n  # strict: false\nname: x\n", &[], &[]).unwrap();

    assert_eq!(loaded.config.consumer, Config::default().consumer);
}

#[test]
fn a_secret_is_neither_shown_nor_named_in_an_error() {
    let loaded = from_layers("consumer:\n  seal_passphrase: hunter2\n", &[], &[]).unwrap();
    assert_eq!(loaded.config.consumer.seal_passphrase, "hunter2");
    let shown = serde_json::to_string(&loaded.leaves).unwrap();
    assert!(!shown.contains("hunter2") && shown.contains("[secret]"), "{shown}");

    let wrong = from_layers("consumer:\n  seal_passphrase: [hunter2]\n", &[], &[]);

    let message = "`consumer.seal_passphrase`: expected a string";
    assert_failure(wrong, ErrorCode::ConfigInvalid, Some("FILE:2:20"), message);
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let absent = Path::new("/nonexistent/hub.yaml");
    let source =
        Source { env_prefix: "KEYHAVEN_HUB", file: Some(absent), flags: &[], env: &|_| None, ignored_env: &[] };

    let failure = Failure::from(load::<Config>(&source).unwrap_err());

    assert_eq!(failure.code(), ErrorCode::ConfigUnreadable);
    assert!(failure.to_string().contains("/nonexistent/hub.yaml: No such file"), "{failure}");
}

#[test]
fn a_file_without_an_end_is_not_read_to_its_end() {
    assert_eq!(read_bounded(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn settings_that_only_make_sense_together_may_be_given_together() {
    let together = from_yaml::<Bounds>("least: 20\nmost: 30\n").unwrap();
    let alone = from_yaml::<Bounds>("least: 20\n");

    assert_eq!((together.config.least, together.config.most), (20, 30));
    let message = "`least`: the least is above the most";
    assert_failure(alone, ErrorCode::ConfigInvalid, Some("FILE:1:8"), message);
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "UncheckedBounds")]
struct Bounds {
    least: u16,
    most: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedBounds {
    least: u16,
    most: u16,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { least: 1, most: 10 }
    }
}

impl TryFrom<UncheckedBounds> for Bounds {
    type Error = &'static str;

    fn try_from(UncheckedBounds { least, most }: UncheckedBounds) -> Result<Self, Self::Error> {
        if least > most {
            return Err("the least is above the most");
        }
        Ok(Self { least, most })
    }
}

fn from_layers(yaml: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded<Config>, ConfigError> {
    load_from(yaml, env, flags)
}

fn from_yaml<C: Serialize + DeserializeOwned + Default>(yaml: &str) -> Result<Loaded<C>, ConfigError> {
    load_from(yaml, &[], &[])
}

fn load_from<C>(yaml: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded<C>, ConfigError>
where
    C: Serialize + DeserializeOwned + Default,
{
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hub.yaml");
    std::fs::write(&file, yaml).unwrap();
    let lookup = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let flags: Vec<(String, String)> =
        flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let source = Source {
        env_prefix: "KEYHAVEN_HUB",
        file: Some(&file),
        flags: &flags,
        env: &lookup,
        ignored_env: &["KEYHAVEN_HUB_TOKEN"],
    };
    load_with_names(&source, env.iter().map(|(name, _)| (*name).to_owned()).collect())
}

/// `FILE` stands for the file's path, which differs from test to test.
fn assert_failure<T: fmt::Debug>(result: Result<T, ConfigError>, code: ErrorCode, place: Option<&str>, message: &str) {
    let error = result.unwrap_err();
    let told = error.to_string();
    let failure = Failure::from(error);
    let text = failure.to_string();

    assert_eq!(told, message);
    assert_eq!(failure.code(), code);
    if let Some(place) = place {
        let end = place.strip_prefix("FILE").map(|rest| format!("hub.yaml{rest})"));
        assert!(text.ends_with(&end.unwrap_or_else(|| format!("({place})"))), "{text}");
    }
}

fn origin_of(loaded: &Loaded<Config>, path: &str) -> Origin {
    loaded.leaves.iter().find(|leaf| leaf.path == path).unwrap().origin.clone()
}
