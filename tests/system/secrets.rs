//! Planted secrets, good and failing calls, logs at their loudest: then a look into everything
//! that was written, printed, answered or dumped.
//!
//! Invariant: a secret that is looked for was in use by the process whose traces are searched.

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::join_token::JoinToken;
use keyhaven_tests::ca::TestCa;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::consumer::get;
use keyhaven_tests::consumer::get_with;
use keyhaven_tests::daemons::AgentSite;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::daemons::PATIENCE;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::daemons::failure_code;
use keyhaven_tests::process::Process;
use keyhaven_tests::upstream::Upstream;
use keyhaven_tests::upstream::settings::Keys;
use keyhaven_tests::upstream::settings::Settings;
use keyhaven_tests::upstream::vendor::Vendor;
use rustix::process::Pid;
use rustix::process::Signal;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

const PASSPHRASE: &str = "canary-passphrase-Qd83-vLx7-never-to-be-seen";

/// A program header of notes.
const PT_NOTE: usize = 4;

/// How the vendors' answers go: well, wrongly, not at all.
const PLAYS: [&str; 14] = [
    "",
    "status-401",
    "status-402",
    "status-403",
    "status-429",
    "status-500",
    "cut-head",
    "cut-body",
    "garbage",
    "reset",
    "huge-head",
    "bad-content-length",
    "error-in-stream",
    "trailers",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_planted_secret_is_in_any_file_log_error_metric_status_or_core_dump() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let keys = Keys::default()
        .with(Vendor::OpenAi, "sk-canaryOpenAi4f1c9be2a7d05368")
        .with(Vendor::Azure, "canaryAzure0b7e64c1d9382fa5")
        .with(Vendor::Anthropic, "sk-ant-canaryAnthropic9c27e5ab1380f4d6")
        .with(Vendor::DeepSeek, "sk-canaryDeepSeek71d3f8095b2eac46");
    let upstream = Upstream::start_with(Settings { keys, ..Settings::default() }, Arc::new(TestCa::new()?))?;
    let site = HubSite::new(&dir.path().join("hub")).set("log.level", "trace");
    let hub = site.start().await?;
    let agent = AgentSite::new(&dir.path().join("agent")).env("KEYHAVEN_AGENT_PASSPHRASE", PASSPHRASE);
    let token = site.invite("office").await?;
    let secret = JoinToken::decode(&token)?.secret;
    let api_key = site.api_key().await?;

    let mut said = vec![("join", agent.run(&["join", "-", "--vault", "passphrase"], &token).await?)];
    for vendor in Vendor::ALL {
        let mut words = vec!["key", "add", vendor.word(), "--attest"];
        if vendor == Vendor::Azure {
            words.extend(["--resource", "kit"]);
        }
        said.push(("key add", agent.run(&words, upstream.keys().of(vendor)).await?));
    }
    for (what, finished) in &said {
        assert_eq!(finished.code, Some(0), "{what}: {}", finished.stderr);
    }
    let running = Process::start(agent.loopback_command(&upstream, "trace")?)?;
    crate::scene::until_served(&Chat::new(&api_key), hub.consumer).await?;
    let mut answers = calls(&api_key, &hub.consumer.to_string(), hub.consumer).await?;
    for path in ["/metrics", "/v1/status", "/readyz", "/livez"] {
        answers.push((path.to_owned(), get(hub.admin, path).await?.bytes));
    }
    eventually("a status", || async { Ok(agent.dir().join("status.json").exists().then_some(())) }).await?;
    // One more join with the same token, and a vault that does not open.
    said.push(("join again", AgentSite::new(&dir.path().join("late")).run(&["join", "-"], &token).await?));
    let wrong = AgentSite::new(agent.dir()).env("KEYHAVEN_AGENT_PASSPHRASE", "canary-passphrase-wrong");
    said.push(("wrong passphrase", wrong.run(&["key", "list"], "").await?));
    for words in [&["key", "list"][..], &["status"], &["doctor"], &["config", "show", "--origin"]] {
        said.push(("agent", agent.run(words, "").await?));
    }
    for words in [&["key", "list"][..], &["agent", "list"], &["agent", "show", "office"], &["status"], &["doctor"]] {
        said.push(("hub", site.run(words).await?));
    }
    // Sleep takes no such care: what is planted there must be found, or nothing is proved.
    let mut control = Command::new("sleep");
    control.arg("60").env("CANARY", PASSPHRASE);
    let control = dump(Process::start(control)?.pid())?;
    let cores = [("agent core", dump(running.pid())?), ("hub core", dump(hub.process.pid())?)];

    let mut traces = answers;
    traces.extend(said.iter().map(|(what, finished)| {
        ((*what).to_owned(), format!("{}\n{}", finished.stdout, finished.stderr).into_bytes())
    }));
    for (name, process) in [("agent", &running), ("hub", &hub.process)] {
        traces.push((format!("{name} stdout"), std::fs::read(process.stdout_path())?));
        traces.push((format!("{name} stderr"), std::fs::read(process.stderr_path())?));
    }
    traces.extend(cores.map(|(name, core)| (name.to_owned(), core)));
    for path in files_under(dir.path())? {
        traces.push((path.display().to_string(), std::fs::read(&path)?));
    }
    let mut canaries: Vec<(String, Vec<u8>)> = Vendor::ALL
        .iter()
        .map(|vendor| (format!("{vendor:?} key"), upstream.keys().of(*vendor).as_bytes().to_vec()))
        .collect();
    canaries.push(("API key".to_owned(), api_key.into_bytes()));
    canaries.push(("passphrase".to_owned(), PASSPHRASE.into()));
    canaries.push(("wrong passphrase".to_owned(), b"canary-passphrase-wrong".to_vec()));
    canaries.push(("join token".to_owned(), token.into_bytes()));
    canaries.push(("join secret".to_owned(), secret.to_vec()));
    canaries.push(("join secret in hex".to_owned(), Hex(secret).to_string().into_bytes()));

    let logged = std::fs::metadata(running.stderr_path())?.len() + std::fs::metadata(hub.process.stderr_path())?.len();
    assert!(logged > 10_000, "the logs were to be loud, and have {logged} bytes");
    if rustix::process::geteuid().is_root() {
        assert_eq!(found(&canaries, &[("control".to_owned(), control)]), ["passphrase in control"]);
    }
    assert_eq!(found(&canaries, &traces), Vec::<String>::new());
    assert_eq!(upstream.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_released_agent_s_passphrase_and_identity_are_in_no_core_dump() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let _hub = site.start().await?;
    let agent = AgentSite::new(&dir.path().join("agent")).env("KEYHAVEN_AGENT_PASSPHRASE", PASSPHRASE);
    agent.json(&["join", "-", "--vault", "passphrase"], &site.invite("office").await?).await?;
    let running = agent.start(&["run"])?;
    eventually("a link", || async { Ok((!site.links().await?.is_empty()).then_some(())) }).await?;

    let mut traces = vec![("core".to_owned(), dump(running.pid())?)];
    for path in files_under(dir.path())? {
        traces.push((path.display().to_string(), std::fs::read(&path)?));
    }

    assert_eq!(found(&[("passphrase".to_owned(), PASSPHRASE.into())], &traces), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_leaves_no_core_even_where_the_limit_was_raised() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let mut hub = site.start_as(unlimited(&site.command(&["serve"])?, dir.path())).await?;
    let agent = AgentSite::new(&dir.path().join("agent"));
    agent.join(&site.invite("office").await?).await?;
    let mut running = Process::start(unlimited(&agent.command(&["run"])?, dir.path()))?;
    eventually("a link", || async { Ok((!site.links().await?.is_empty()).then_some(())) }).await?;
    let mut control = Command::new("sleep");
    control.arg("60");
    let mut control = Process::start(unlimited(&control, dir.path()))?;
    eventually("sleep in the shell's place", || async {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", control.pid()))?;
        Ok((name.trim() == "sleep").then_some(()))
    })
    .await?;

    for process in [&mut running, &mut hub.process] {
        let core = limits_of(process.pid())?;
        assert!(core.split_whitespace().filter(|word| *word == "0").count() == 2, "{core}");
        abort(process)?;
        process.wait(PATIENCE).await?;
    }
    let cores = cores_in(dir.path())?;
    let would_dump = limits_of(control.pid())?.contains("unlimited") && dumps_into_the_working_directory()?;
    abort(&control)?;
    control.wait(PATIENCE).await?;

    assert_eq!(cores, Vec::<String>::new());
    assert_eq!(!cores_in(dir.path())?.is_empty(), would_dump, "the test can tell");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_s_files_that_others_can_read_are_refused() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir()?;
    let agent = AgentSite::new(&dir.path().join("agent"));
    agent.json(&["key", "add", "openai", "--attest"], "sk-canary-0000000000").await?;
    let key_file = agent.dir().join("vault.key");
    for path in files_under(agent.dir())? {
        let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }

    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o640))?;
    let exposed = agent.run(&["key", "list", "--json"], "").await?;
    let doctor = agent.run(&["doctor", "--json"], "").await?;

    assert_eq!(failure_code(&exposed).as_deref(), Some("KH-E4001"), "{}", exposed.stderr);
    assert!(doctor.stdout.contains("chmod 600"), "{}", doctor.stdout);
    Ok(())
}

/// Calls of every play, and calls with keys that are none; what came back.
async fn calls(api_key: &str, host: &str, hub: std::net::SocketAddr) -> Result<Vec<(String, Vec<u8>)>> {
    let mut answers = Vec::new();
    for play in PLAYS {
        for stream in [false, true] {
            let chat = Chat { stream, ..Chat::new(api_key).streamed(&format!("{play}-{stream}"), play) };
            answers.push((format!("play {play:?}"), chat.ask(hub).await?.bytes));
        }
    }
    let wrong = [format!("{api_key}x"), api_key.replace("kh_sk_", "kh_sk_0"), "sk-canary-of-nobody".to_owned()];
    for key in wrong {
        answers.push(("wrong key".to_owned(), Chat::new(&key).ask(hub).await?.bytes));
    }
    let headers = [
        format!("authorization: Bearer {api_key}\r\nx-api-key: other\r\n"),
        format!("authorization: Basic {api_key}\r\n"),
        format!("x-api-key: {api_key}\r\n"),
        format!("api-key: {api_key}\r\n"),
    ];
    for header in headers {
        for path in ["/v1/models", "/v1/nothing", "/via/anthropic/v1/models", "/via/azure/kit/openai/v1/models"] {
            answers.push((format!("{path} at {host}"), get_with(hub, path, &header).await?.bytes));
        }
    }
    Ok(answers)
}

/// The memory in a core that gdb writes of a running process.
fn dump(pid: u32) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let output = Command::new("gcore").arg("-o").arg(dir.path().join("core")).arg(pid.to_string()).output();
    let output = output.context("gcore cannot be started: run tests/install.sh first")?;
    match std::fs::read(dir.path().join(format!("core.{pid}"))) {
        Ok(core) if !core.is_empty() => without_notes(core),
        // Who is not root may not even attach, which is better still.
        Ok(_) | Err(_) if !rustix::process::geteuid().is_root() => Ok(Vec::new()),
        Ok(_) | Err(_) => bail!("gcore wrote nothing: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// A core without its notes. They hold the registers of every thread as it stood when it was stopped, which no process
/// can keep from who attaches to it as root: a vector register has 64 bytes, and for a while those of what was copied
/// last. What is promised is that no dump has the memory.
fn without_notes(mut core: Vec<u8>) -> Result<Vec<u8>> {
    let number = |at: usize, bytes: usize| -> Result<usize> {
        let field = core.get(at..at + bytes).context("the core ends in its head")?;
        let number = field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Ok(usize::try_from(number)?)
    };
    // A 64-bit ELF file with its program headers: where they begin, how long each is, how many there are.
    let (headers, header_bytes, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let mut notes = Vec::new();
    for header in (0..count).map(|place| headers + place * header_bytes) {
        if number(header, 4)? == PT_NOTE {
            let begin = number(header + 8, 8)?;
            notes.push(begin..begin + number(header + 32, 8)?);
        }
    }
    ensure!(notes.len() == 1, "a core has its notes in one place, not in {}", notes.len());
    notes.into_iter().for_each(|note| core[note].fill(0));
    Ok(core)
}

/// The same command in a shell that allows cores of any size, in this directory.
fn unlimited(command: &Command, dir: &Path) -> Command {
    let mut shell = Command::new("sh");
    // Where the hard limit is lower, lower is what is tried.
    let script = "ulimit -c unlimited 2>/dev/null || ulimit -c \"$(ulimit -H -c)\"; exec \"$0\" \"$@\"";
    shell.args(["-c", script]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.current_dir(dir);
    shell
}

fn abort(process: &Process) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(process.pid())?).context("no process")?;
    Ok(rustix::process::kill_process(pid, Signal::ABORT)?)
}

/// What the kernel says of the size that a core of this process may have.
fn limits_of(pid: u32) -> Result<String> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    Ok(core.context("no limit")?.to_owned())
}

fn dumps_into_the_working_directory() -> Result<bool> {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    Ok(pattern.starts_with("core"))
}

/// Files with something in them that are named like cores.
fn cores_in(dir: &Path) -> Result<Vec<String>> {
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core"));
    let mut cores = Vec::new();
    for path in files_under(dir)?.into_iter().filter(named) {
        if std::fs::metadata(&path)?.len() > 0 {
            cores.push(path.display().to_string());
        }
    }
    Ok(cores)
}

fn files_under(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_under(&path)?);
        } else if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

/// Where which canary is.
fn found(canaries: &[(String, Vec<u8>)], traces: &[(String, Vec<u8>)]) -> Vec<String> {
    let holds = |trace: &[u8], canary: &[u8]| trace.windows(canary.len()).any(|window| window == canary);
    let mut found = Vec::new();
    for (place, trace) in traces {
        let here = canaries.iter().filter(|(_, canary)| holds(trace, canary));
        found.extend(here.map(|(name, _)| format!("{name} in {place}")));
    }
    found
}
