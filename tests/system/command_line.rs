//! The two command lines as people and scripts meet them: help, JSON, exit codes, configuration.
//!
//! Invariant: nothing is known here of how a command is written, only of what it prints and how
//! it ends.

use anyhow::Context;
use anyhow::Result;
use keyhaven_protocol::ErrorCode;
use keyhaven_tests::daemons::AgentSite;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::daemons::PATIENCE;
use keyhaven_tests::daemons::answer_of;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::daemons::failure_code;
use keyhaven_tests::process;
use keyhaven_tests::process::Finished;
use keyhaven_tests::process::Process;
use serde_json::Value;
use serde_json::json;
use std::path::Path;

const BINARIES: [&str; 2] = ["keyhaven-hub", "keyhaven-agent"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_explains_itself() -> Result<()> {
    for binary in BINARIES {
        let mut waiting: Vec<Vec<String>> = vec![Vec::new()];
        let mut seen = 0;
        while let Some(words) = waiting.pop() {
            let mut asked: Vec<&str> = words.iter().map(String::as_str).collect();
            asked.push("--help");
            let help = run(binary, &asked).await?;
            assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{binary} {asked:?}");
            assert!(help.stdout.contains("Usage:") && help.stdout.contains("--json"), "{binary} {asked:?}");
            for inner in commands_in(&help.stdout).into_iter().filter(|inner| inner != "help") {
                waiting.push(words.iter().cloned().chain([inner]).collect());
            }
            seen += 1;
        }
        assert!(seen >= 14, "{binary} has {seen} commands");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_sense_it_is_usage_and_the_nearest_word_is_named() -> Result<()> {
    for (binary, word, meant) in [("keyhaven-hub", "servve", "serve"), ("keyhaven-agent", "satus", "status")] {
        let nothing = run(binary, &[]).await?;
        let slip = run(binary, &[word]).await?;
        let flag = run(binary, &["--frobnicate", "version"]).await?;

        assert_eq!([nothing.code, slip.code, flag.code], [Some(2); 3]);
        assert!(slip.stderr.contains(meant), "{}", slip.stderr);
        assert_eq!(format!("{}{}{}", nothing.stdout, slip.stdout, flag.stdout), "");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_with_json_are_one_object_with_a_schema() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let agent = AgentSite::new(&dir.path().join("agent"));
    // Keys are looked at where no agent runs: a running one would show them to their vendor.
    let keys = AgentSite::new(&dir.path().join("keys"));

    let initialised = site.json(&["init"]).await?;
    let _hub = site.start().await?;
    let token = site.invite("office").await?;
    agent.join(&token).await?;
    let _running = agent.start(&["run"])?;
    eventually("a status", || async { Ok(agent.run(&["status"], "").await?.stdout.contains("linked").then_some(())) })
        .await?;

    let of_hub = [
        (&["version"][..], "version"),
        (&["status"], "status"),
        (&["key", "create", "--name", "web"], "api-key-created"),
        (&["key", "list"], "api-keys"),
        (&["key", "revoke", "web", "--yes"], "api-key"),
        (&["agent", "list"], "agents"),
        (&["agent", "show", "office"], "agent"),
        (&["agent", "top", "--once"], "agent-top"),
        (&["agent", "invite", "--again", "office"], "invitation"),
        (&["agent", "drain", "office"], "agent-state"),
        (&["agent", "drain", "office", "--undo"], "agent-state"),
        (&["config", "check"], "config-check"),
        (&["config", "show", "--origin"], "config"),
        (&["doctor"], "doctor"),
        (&["explain"], "error-codes"),
        (&["explain", "KH-E1002"], "error-code"),
    ];
    for (words, schema) in of_hub {
        assert_eq!(site.json(words).await?["schema"], format!("keyhaven/{schema}/v1"), "{words:?}");
    }
    let of_agent = [
        (&["version"][..], "version"),
        (&["status"], "agent-status"),
        (&["config", "check"], "config-check"),
        (&["config", "show"], "config"),
        (&["doctor"], "doctor"),
        (&["explain"], "error-codes"),
        (&["explain", "kh-e1002"], "error-code"),
    ];
    for (words, schema) in of_agent {
        assert_eq!(agent.json(words, "").await?["schema"], format!("keyhaven/{schema}/v1"), "{words:?}");
    }
    let of_keys = [
        (&["key", "add", "anthropic", "--attest", "--label", "mine"][..], "key-added"),
        (&["key", "list"], "keys"),
        (&["key", "remove", "mine", "--dry-run"], "key-would-be-removed"),
        (&["key", "remove", "mine", "--yes"], "key-removed"),
    ];
    for (words, schema) in of_keys {
        let answer = keys.json(words, "sk-ant-0123456789abcdef").await?;
        assert_eq!(answer["schema"], format!("keyhaven/{schema}/v1"), "{words:?}");
    }
    assert_eq!(initialised["schema"], "keyhaven/init/v1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_fails_with_the_exit_code_cause_and_fix_of_its_error() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let none = HubSite::new(&dir.path().join("none"));
    let agent = AgentSite::new(&dir.path().join("agent"));
    let blank = AgentSite::new(&dir.path().join("blank"));
    site.json(&["init"]).await?;
    let file = dir.path().join("not-a-directory");
    std::fs::write(&file, "")?;
    let absent = dir.path().join("absent.yaml").display().to_string();
    let open = dir.path().join("open.yaml");
    std::fs::write(&open, "consumer:\n  public_url: https://${KEYHAVEN_TEST_NOT_SET}\n")?;
    let open = open.display().to_string();
    let on_file = AgentSite::new(&file);

    let of_hub = [
        (site.run(&["init", "--json"]).await?, ErrorCode::KeyFileExists),
        (site.run(&["status", "--json"]).await?, ErrorCode::NotRunning),
        (site.run(&["agent", "show", "nobody", "--json"]).await?, ErrorCode::AgentUnknown),
        (site.run(&["key", "revoke", "nothing", "--yes", "--json"]).await?, ErrorCode::ApiKeyNotFound),
        (site.run(&["agent", "invite", "--name", "", "--json"]).await?, ErrorCode::UsageInvalid),
        (site.run(&["agent", "invite", "--address", "nowhere", "--json"]).await?, ErrorCode::UsageInvalid),
        (site.run(&["agent", "invite", "--address", "0.0.0.0:9010", "--json"]).await?, ErrorCode::ConfigInvalid),
        (site.run(&["--config", &absent, "config", "check", "--json"]).await?, ErrorCode::ConfigUnreadable),
        (site.run(&["--config", &open, "config", "check", "--json"]).await?, ErrorCode::ConfigVariableMissing),
        (site.run(&["--set", "calls.drain_grace_s=x", "config", "check", "--json"]).await?, ErrorCode::ConfigInvalid),
        (site.run(&["--set", "log.level=loud", "serve", "--json"]).await?, ErrorCode::ConfigInvalid),
        (site.run(&["explain", "KH-E0000", "--json"]).await?, ErrorCode::CodeUnknown),
        (none.run(&["agent", "list", "--json"]).await?, ErrorCode::NotInitialised),
        (none.run(&["doctor", "--json"]).await?, ErrorCode::NotInitialised),
    ];
    let of_agent = [
        (agent.run(&["join", "kh1_damaged", "--json"], "").await?, ErrorCode::TokenMalformed),
        (agent.run(&["join", "--json"], "").await?, ErrorCode::UsageInvalid),
        (agent.run(&["run", "--json"], "").await?, ErrorCode::NotJoined),
        (agent.run(&["repin", "--file", &absent, "--json"], "").await?, ErrorCode::UsageInvalid),
        (agent.run(&["key", "add", "openai", "--json"], "sk-0123456789").await?, ErrorCode::AttestationMissing),
        (agent.run(&["key", "add", "openai", "--attest", "--json"], "two words").await?, ErrorCode::VendorKeyMalformed),
        (agent.run(&["key", "add", "azure", "--attest", "--json"], "k").await?, ErrorCode::UsageInvalid),
        (agent.run(&["key", "remove", "nothing", "--yes", "--json"], "").await?, ErrorCode::VaultKeyUnknown),
        (
            agent.run(&["key", "add", "azure", "--resource", "a.b", "--attest", "--json"], "k").await?,
            ErrorCode::ResourceMalformed,
        ),
        (blank.run(&["status", "--json"], "").await?, ErrorCode::NotRunning),
        (on_file.run(&["join", "-", "--json"], "kh1_").await?, ErrorCode::TokenMalformed),
        (
            on_file.run(&["key", "add", "openai", "--attest", "--json"], "sk-0123456789").await?,
            ErrorCode::DataDirUnusable,
        ),
    ];
    for (finished, code) in of_hub.iter().chain(&of_agent) {
        let context = format!("{code}: {}{}", finished.stdout, finished.stderr);
        assert_eq!(failure_code(finished), Some(code.to_string()), "{context}");
        assert_eq!(finished.code, Some(i32::from(code.exit() as u8)), "{context}");
        let failure = finished.stderr.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
        let failure = failure.context("no failure")?;
        assert_eq!(failure["cause"], code.cause(), "{context}");
        assert!(failure["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{context}");
        assert_eq!(failure["retryable"], code.retryable(), "{context}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_reads_as_code_cause_place_and_fix() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = HubSite::new(dir.path());
    site.json(&["init"]).await?;

    let failed = site.run(&["init"]).await?;

    let lines: Vec<&str> = failed.stderr.lines().collect();
    assert!(lines[0].starts_with("error[KH-E5010]: the data directory already holds a hub"), "{lines:?}");
    assert!(lines.last().is_some_and(|line| line.starts_with("  fix: ")), "{lines:?}");
    assert_eq!(failed.stdout, "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_says_the_same_on_both_sides() -> Result<()> {
    let table = |finished: Finished| -> Result<Value> { answer_of(&["explain"], &finished) };
    let hub = table(run("keyhaven-hub", &["explain", "--json"]).await?)?;
    let agent = table(run("keyhaven-agent", &["explain", "--json"]).await?)?;
    let text = run("keyhaven-agent", &["explain", "KH-E1002"]).await?.stdout;

    let rows = hub["items"].as_array().context("no rows")?;
    assert_eq!(hub, agent);
    assert_eq!(rows.len(), ErrorCode::ALL.len());
    for (row, code) in rows.iter().zip(ErrorCode::ALL) {
        assert_eq!((&row["code"], &row["exit"]), (&json!(code.to_string()), &json!(code.exit() as u8)));
    }
    assert!(text.contains("repin") && text.contains("exit code: 6"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slip_in_the_configuration_is_named_with_its_line_and_what_was_meant() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for (binary, text, line, meant) in [
        ("keyhaven-hub", "log:\n  level: info\nconsumer:\n  listn: 127.0.0.1:1\n", ":4:3", "consumer.listen"),
        ("keyhaven-agent", "calls:\n  concurent_max: 5\n", ":2:3", "calls.concurrent_max"),
    ] {
        let file = dir.path().join(format!("{binary}.yaml"));
        std::fs::write(&file, text)?;
        let path = file.display().to_string();

        let checked = run(binary, &["--config", &path, "config", "check"]).await?;

        assert_eq!(checked.code, Some(3), "{}", checked.stderr);
        assert!(checked.stderr.contains(&format!("{path}{line}")), "{}", checked.stderr);
        assert!(checked.stderr.contains(&format!("did you mean `{meant}`?")), "{}", checked.stderr);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_show_says_where_each_value_comes_from() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("hub.yaml");
    std::fs::write(&file, "calls:\n  drain_grace_s: 7\nconsumer:\n  request_body_bytes_max: 1000\n")?;
    let mut command = process::command("keyhaven-hub")?;
    command.arg("--config").arg(&file).args(["--set", "log.level=debug", "config", "show", "--origin", "--json"]);
    command.env("KEYHAVEN_HUB_CONSUMER_REQUEST_BODY_BYTES_MAX", "2000").env("KEYHAVEN_HUB_LOG_LEVEL", "warn");

    let shown = Process::run(command, "", PATIENCE).await?;
    let shown = answer_of(&["config", "show"], &shown)?;
    let slip = {
        let mut command = process::command("keyhaven-hub")?;
        command.env("KEYHAVEN_HUB_CONSUMER_LISTN", "x").args(["config", "check"]);
        Process::run(command, "", PATIENCE).await?
    };

    let field = |path: &str| -> Value {
        let fields = shown["items"].as_array().cloned().unwrap_or_default();
        fields.into_iter().find(|field| field["path"] == path).unwrap_or_default()
    };
    assert_eq!(field("log.level")["value"], "debug");
    assert_eq!(field("log.level")["origin"]["from"], "flag");
    assert_eq!(field("consumer.request_body_bytes_max")["value"], "2000");
    assert_eq!(field("consumer.request_body_bytes_max")["origin"]["from"], "env");
    assert_eq!(field("calls.drain_grace_s")["value"], "7");
    assert_eq!(field("calls.drain_grace_s")["origin"]["at"]["line"], 2);
    assert_eq!(field("tunnel.listen")["origin"]["from"], "default");
    assert_eq!(slip.code, Some(3), "{}", slip.stderr);
    assert!(slip.stderr.contains("KEYHAVEN_HUB_CONSUMER_LISTN"), "{}", slip.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_configurations_are_the_defaults() -> Result<()> {
    let etc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc");
    for (binary, file) in [("keyhaven-hub", "hub.yaml"), ("keyhaven-agent", "agent.yaml")] {
        let path = etc.join(file).display().to_string();
        let values = |finished: Finished| -> Result<Vec<Value>> {
            let shown = answer_of(&["config", "show"], &finished)?;
            let fields = shown["items"].as_array().context("no fields")?;
            Ok(fields.iter().map(|field| json!([field["path"], field["value"]])).collect())
        };
        let checked = run(binary, &["--config", &path, "config", "check"]).await?;
        let documented = values(run(binary, &["--config", &path, "config", "show", "--json"]).await?)?;
        let defaults = values(run(binary, &["config", "show", "--json"]).await?)?;

        assert_eq!(checked.code, Some(0), "{}", checked.stderr);
        assert_eq!(documented, defaults, "{file}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_are_scripts_that_bash_takes() -> Result<()> {
    for binary in BINARIES {
        let script = run(binary, &["completions", "bash"]).await?;
        assert_eq!(script.code, Some(0));
        assert!(script.stdout.contains(binary), "{binary}");
        let mut check = std::process::Command::new("bash");
        check.args(["-n", "/dev/stdin"]);
        let checked = Process::run(check, &script.stdout, PATIENCE).await?;
        assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_finds_what_is_wrong_and_nothing_where_nothing_is() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let stick = dir.path().join("stick.key").display().to_string();
    site.json(&["init", "--backup-key", &stick]).await?;
    let hub = site.start().await?;
    let agent = AgentSite::new(&dir.path().join("agent"));
    agent.join(&site.invite("office").await?).await?;
    let running = agent.start(&["run"])?;
    eventually("a status", || async { Ok(agent.run(&["status"], "").await?.stdout.contains("linked").then_some(())) })
        .await?;

    let well = [site.json(&["doctor"]).await?, agent.json(&["doctor"], "").await?];
    drop(hub);
    drop(running);
    std::fs::remove_file(site.dir().join("signing.key"))?;
    let ill = [site.run(&["doctor", "--json"]).await?, agent.run(&["doctor", "--json"], "").await?];

    assert!(well.iter().all(|report| !report.to_string().contains("\"fail\",")), "{well:?}");
    for (finished, code) in ill.iter().zip([ErrorCode::DataDirUnusable, ErrorCode::HubUnreachable]) {
        let report: Value = serde_json::from_str(&finished.stdout)?;
        let rows = report["rows"].as_array().context("no rows")?;
        let failed: Vec<&Value> = rows.iter().filter(|row| row["state"] == "fail" || row["result"] == "fail").collect();
        assert!(!failed.is_empty() && failed.iter().all(|row| row["fix"].is_string()), "{report}");
        assert_eq!(failure_code(finished), Some(code.to_string()), "{report}");
    }
    Ok(())
}

async fn run(binary: &str, words: &[&str]) -> Result<Finished> {
    let mut command = process::command(binary)?;
    command.args(words);
    Process::run(command, "", PATIENCE).await
}

/// The names under `Commands:` in a help text.
fn commands_in(help: &str) -> Vec<String> {
    let listed = help.split_once("Commands:\n").map_or("", |(_, rest)| rest);
    let lines = listed.lines().take_while(|line| !line.trim().is_empty());
    let named = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    named.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}
