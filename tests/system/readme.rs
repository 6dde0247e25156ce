//! The README's commands do what it says.
//!
//! Invariant: what is run is read from the README, not repeated here.

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::process::Process;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A release build from nothing is in it, should none be there.
const DEMO_MAX: Duration = Duration::from_secs(900);

#[tokio::test]
async fn the_first_command_ends_in_a_streamed_answer_and_the_printed_curl_works() -> Result<()> {
    let commands = commands()?;
    let demo = commands.first().context("the README shows no command")?;
    assert_eq!(demo, "cargo run --release -p keyhaven-demo");
    let mut demo = Process::start(shell(demo))?;
    demo.says("Calls as they pass", DEMO_MAX).await?;

    let printed = demo.stdout();
    let answer = printed.lines().find_map(|line| line.trim().strip_prefix("< ")).context("no streamed answer")?;
    assert!(answer.len() > 40, "{answer}");
    let cost = printed.lines().find(|line| line.starts_with("It cost $")).context("no cost")?;
    assert!(cost.contains("output tokens") && cost.ends_with("hub and agent metered the same."), "{cost}");
    let curl =
        printed.split("\n\n").find(|block| block.trim_start().starts_with("curl ")).context("no curl printed")?;
    let answered = Process::run(shell(curl.trim()), "", Duration::from_secs(30)).await?;
    assert_eq!(answered.code, Some(0), "{}", answered.stderr);
    assert!(answered.stdout.trim_end().ends_with("data: [DONE]"), "{}", answered.stdout);

    demo.terminate()?;
    demo.wait(Duration::from_secs(30)).await?;
    Ok(())
}

#[test]
fn the_second_command_is_what_continuous_integration_runs() -> Result<()> {
    let commands = commands()?;

    assert_eq!(commands.len(), 2, "{commands:?}");
    let ci = std::fs::read_to_string(root().join(".ci/run"))?;
    assert!(ci.contains(&format!("exec {}", commands[1])), "{ci}");
    Ok(())
}

/// Cargo joins the features of the packages it is asked to build. Were they others for one package
/// than for the workspace, the README's command would build half of the dependencies once more.
#[test]
fn the_first_command_s_package_has_the_features_that_a_build_of_all_has() -> Result<()> {
    let all = features(&["--workspace"])?;
    for package in ["keyhaven-demo", "keyhaven-tests"] {
        for (dependency, enabled) in features(&["-p", package])? {
            assert_eq!(
                all.get(&dependency),
                Some(&enabled),
                "{dependency} for {package}; see [workspace.dependencies]"
            );
        }
    }
    Ok(())
}

/// Each dependency with the sets of features it is built with.
fn features(of: &[&str]) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["tree", "--offline", "--edges", "normal,build", "--prefix", "none", "--no-dedupe"]);
    let shown = command.args(["--format", "{p}\t{f}"]).args(of).current_dir(root()).output()?;
    ensure!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let mut features: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in String::from_utf8(shown.stdout)?.lines().filter(|line| !line.is_empty()) {
        let (package, enabled) = line.split_once('\t').context("a line without features")?;
        features.entry(package.to_owned()).or_default().insert(enabled.to_owned());
    }
    Ok(features)
}

/// The lines of the README's `sh` blocks.
fn commands() -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root().join("README.md"))?;
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    Ok(blocks.flat_map(str::lines).map(str::to_owned).collect())
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg("-c").arg(format!("exec {line}")).current_dir(root());
    command
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}
