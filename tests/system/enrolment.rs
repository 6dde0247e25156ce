//! Agents come in, are looked at, drained, put out and led to new keys: all by the command lines.
//!
//! Invariant: of all vaults that hold a token at most one joins with it, and only a heartbeat
//! uses it up.

use anyhow::Context;
use anyhow::Result;
use keyhaven_hub::keys::BACKUP_KEY_FILE;
use keyhaven_hub::keys::HubKeys;
use keyhaven_hub::keys::IDENTITY_FILE;
use keyhaven_hub::keys::OfflineFiles;
use keyhaven_hub::keys::TUNNEL_KEY_FILE;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::join_token::JoinToken;
use keyhaven_tests::consumer::Answer;
use keyhaven_tests::consumer::Call;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::consumer::get;
use keyhaven_tests::daemons::AgentSite;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::daemons::PATIENCE;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::daemons::failure_code;
use keyhaven_tests::process::Finished;
use keyhaven_tests::process::Process;
use keyhaven_tests::raw_agent::RawAgent;
use keyhaven_tests::raw_agent::Verdict;
use keyhaven_tests::upstream::Upstream;
use serde_json::Value;
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_taken_from_argument_stdin_file_and_environment() -> Result<()> {
    let dir = home()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let initialised = site.json(&["init"]).await?;
    let hub = site.start().await?;
    let invited = [
        site.json(&["agent", "invite", "--name", "by-argument"]).await?,
        site.json(&["agent", "invite", "--name", "by-stdin"]).await?,
        site.json(&["agent", "invite", "--name", "by-file"]).await?,
        site.json(&["agent", "invite", "--name", "by-environment"]).await?,
    ];
    let token = |at: usize| invited[at]["token"].as_str().context("no token");
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{}\n", token(2)?))?;
    let place = |name: &str| AgentSite::new(&dir.path().join(name));

    let joined = [
        place("argument").json(&["join", token(0)?], "").await?,
        place("stdin").json(&["join", "-"], &format!("{}\n", token(1)?)).await?,
        place("file").json(&["join", "--file", &file.display().to_string()], "").await?,
        place("environment").env("KEYHAVEN_AGENT_JOIN_TOKEN", token(3)?).json(&["join"], "").await?,
    ];

    for (invited, joined) in invited.iter().zip(&joined) {
        assert_eq!(invited["address"], json!(hub.tunnel.to_string()), "the port in use, not the 0 of the settings");
        assert_eq!(invited["agent_id"], joined["agent"]);
        assert_eq!(joined["fleet"], initialised["fleet"]);
        assert_eq!(joined["pins"], json!([initialised["live_pin"], initialised["backup_pin"]]));
    }
    // The hub writes the heartbeat down a moment after it came.
    eventually("four active agents", || async {
        let listed = site.json(&["agent", "list"]).await?;
        let agents = listed["agents"].as_array().context("no list")?.clone();
        Ok((agents.len() == 4 && agents.iter().all(|agent| agent["state"] == "active")).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_runs_and_both_sides_show_it() -> Result<()> {
    let dir = home()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let hub = site.start().await?;
    let agent = AgentSite::new(&dir.path().join("agent"));
    let token = site.invite("office").await?;

    let before = agent.run(&["up", "--json"], "").await?;
    let not_running = agent.run(&["status", "--json"], "").await?;
    let mut process = Process::start_with_input(agent.command(&["up", "-"])?, &token)?;
    let status = linked(&agent).await?;

    assert_eq!((before.code, failure_code(&before)), refused_with(ErrorCode::NotJoined));
    assert_eq!((not_running.code, failure_code(&not_running)), refused_with(ErrorCode::NotRunning));
    assert_eq!(status["status"]["hub_address"], json!(hub.tunnel.to_string()));
    assert_eq!(status["status"]["egress"], "official");
    let shown = site.json(&["agent", "show", "office"]).await?;
    assert_eq!((&shown["state"], &shown["linked"]), (&json!("active"), &json!(true)), "{shown}");
    assert_eq!(shown["join_tokens"][0]["state"], "used");
    let links = site.links().await?;
    assert_eq!(links[0]["agent_id"], shown["agent_id"]);
    assert_eq!(links[0]["egress"], "official");
    assert_eq!(get(hub.admin, "/readyz").await?.status(), 200);
    let second = agent.run(&["run", "--json"], "").await?;
    assert_eq!((second.code, failure_code(&second)), refused_with(ErrorCode::AlreadyRunning));

    process.terminate()?;
    assert_eq!(process.wait(PATIENCE).await?.code(), Some(0));
    assert!(!agent.dir().join("status.json").exists());
    // `up` with the used token, as a service file would say it again and again.
    let mut again = Process::start_with_input(agent.command(&["up", "-"])?, &token)?;
    linked(&agent).await?;
    again.says("has joined already", PATIENCE).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_agent_keeps_its_link_and_gets_no_new_calls_until_that_is_undone() -> Result<()> {
    let dir = home()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let hub = site.start().await?;
    let upstream = Upstream::start().await?;
    let agent = AgentSite::new(&dir.path().join("agent"));
    agent.join(&site.invite("office").await?).await?;
    agent.add_keys(&upstream).await?;
    let _process = agent.start_before(&upstream)?;
    let chat = Chat::new(&site.api_key().await?);
    until_status(&chat, hub.consumer, 200).await?;
    let under_way = chat.clone().streamed("under-way", "step");
    let mut under_way = Call::begin(hub.consumer, &under_way.request()).await?;
    upstream.wait_for(|exchange| exchange.case.as_deref() == Some("under-way")).await?;

    let drained = site.json(&["agent", "drain", "office"]).await?;
    let refused = until_status(&chat, hub.consumer, 503).await?;
    upstream.steps().release("under-way", 100);
    let finished = under_way.answer().await;
    let links = site.links().await?;
    let undone = site.json(&["agent", "drain", "office", "--undo"]).await?;
    until_status(&chat, hub.consumer, 200).await?;

    assert_eq!(drained["state"], "draining");
    assert_eq!(refused.code().as_deref(), Some("KH-E2009"), "{}", refused.text());
    assert!(finished.complete(), "a call under way is finished");
    assert_eq!(links.len(), 1, "the link stays");
    assert_eq!(undone["state"], "active");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_agent_is_told_so_ends_and_never_comes_back() -> Result<()> {
    let dir = home()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let _hub = site.start().await?;
    let agent = AgentSite::new(&dir.path().join("agent"));
    agent.join(&site.invite("office").await?).await?;
    let mut process = agent.start(&["run"])?;
    linked(&agent).await?;

    let unsure = site.run(&["agent", "revoke", "office", "--json"]).await?;
    let tried = site.json(&["agent", "revoke", "office", "--dry-run"]).await?;
    let revoked = site.json(&["agent", "revoke", "office", "--yes"]).await?;
    let ended = process.wait(PATIENCE).await?;
    let back = agent.run(&["run", "--json"], "").await?;
    let again = site.run(&["agent", "invite", "--again", "office", "--json"]).await?;

    assert_eq!((unsure.code, failure_code(&unsure)), refused_with(ErrorCode::UsageInvalid));
    assert_eq!(tried["state"], "active");
    assert_eq!(revoked["state"], "revoked");
    assert_eq!(ended.code(), Some(4));
    assert!(process.stderr().contains("error[KH-E1005]"), "{}", process.stderr());
    assert_eq!((back.code, failure_code(&back)), refused_with(ErrorCode::AgentRevoked));
    assert_eq!((again.code, failure_code(&again)), refused_with(ErrorCode::AgentRevoked));
    assert_eq!(site.links().await?, Vec::<Value>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_follows_the_backup_key_by_itself_and_new_pins_by_repin() -> Result<()> {
    let dir = home()?;
    let site = HubSite::new(&dir.path().join("hub")).on_fixed_ports()?;
    let stick = dir.path().join("backup.key");
    site.json(&["init", "--backup-key", &stick.display().to_string()]).await?;
    let mut hub = site.start().await?;
    let agent = AgentSite::new(&dir.path().join("agent"));
    agent.join(&site.invite("office").await?).await?;
    let mut process = agent.start(&["run"])?;
    linked(&agent).await?;

    // The live key is lost; the one from the stick takes its place.
    hub.process.kill_9()?;
    let with_backup = site.clone().set("tunnel.key_file", &stick.display().to_string());
    hub = with_backup.start().await?;
    linked_at(&with_backup).await?;
    assert!(!site.dir().join(BACKUP_KEY_FILE).exists());

    // Both keys are lost: new ones, and a new address.
    hub.process.kill_9()?;
    drop(hub);
    new_pins(site.dir(), dir.path())?;
    let moved = site.on_fixed_ports()?;
    let _hub = moved.start().await?;
    let token = moved.json(&["agent", "invite", "--again", "office"]).await?;
    let token = token["token"].as_str().context("no token")?;
    let running = agent.run(&["repin", "-", "--json"], token).await?;
    process.terminate()?;
    process.wait(PATIENCE).await?;
    let stale = agent.run(&["doctor", "--json"], "").await?;
    let foreign = agent.run(&["repin", "-", "--json"], &moved.invite("another").await?).await?;
    let repinned = agent.json(&["repin", "-"], token).await?;
    let _process = agent.start(&["run"])?;
    linked_at(&moved).await?;

    assert_eq!((running.code, failure_code(&running)), refused_with(ErrorCode::AlreadyRunning));
    assert_eq!((stale.code, failure_code(&stale)), refused_with(ErrorCode::HubUnreachable));
    assert_eq!((foreign.code, failure_code(&foreign)), refused_with(ErrorCode::TokenUnknown));
    let keys = HubKeys::load(moved.dir(), None)?;
    assert_eq!(repinned["pins"], json!(keys.pins().map(|pin| pin.to_string())));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_late_used_damaged_or_foreign_is_told_apart() -> Result<()> {
    let dir = home()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let hub = site.start().await?;
    let other_site = HubSite::new(&dir.path().join("other"));
    let _other = other_site.start().await?;
    let token = site.invite("office").await?;
    AgentSite::new(&dir.path().join("first")).join(&token).await?;
    let late = site.json(&["agent", "invite", "--name", "late", "--ttl", "1s"]).await?;
    let foreign = JoinToken::decode(&other_site.invite("there").await?)?;
    let ours = JoinToken::decode(&token)?;
    // Another hub's token at this address: its pins, its fleet, or all but its secret.
    let pinned = JoinToken { hub_address: hub.tunnel.to_string(), ..foreign.clone() };
    let fleet = JoinToken { pins: ours.pins.clone(), ..pinned.clone() };
    let unknown = JoinToken { fleet: ours.fleet, ..fleet.clone() };
    let guessed = JoinToken { secret: [7; 32], ..ours.clone() };
    let nobody = JoinToken { hub_address: "127.0.0.1:1".to_owned(), ..ours.clone() };
    let mut damaged = token.clone();
    damaged.replace_range(60..61, if &token[60..61] == "A" { "B" } else { "A" });
    let expires = late["expires_unix_ms"].as_u64().context("no time")?;
    eventually("a second", || async { Ok((keyhaven_daemon::clock::unix_ms_now() > expires).then_some(())) }).await?;

    let cases = [
        (late["token"].as_str().context("no token")?.to_owned(), ErrorCode::TokenExpired),
        (token.clone(), ErrorCode::TokenUsed),
        (damaged, ErrorCode::TokenMalformed),
        (token[..token.len() - 4].to_owned(), ErrorCode::TokenMalformed),
        ("sk-not-a-token".to_owned(), ErrorCode::TokenMalformed),
        (pinned.encode(), ErrorCode::PinMismatch),
        (fleet.encode(), ErrorCode::HandshakeRefused),
        (unknown.encode(), ErrorCode::TokenUnknown),
        (guessed.encode(), ErrorCode::TokenUnknown),
        (nobody.encode(), ErrorCode::HubUnreachable),
    ];
    for (at, (token, code)) in cases.into_iter().enumerate() {
        let agent = AgentSite::new(&dir.path().join(format!("case-{at}")));
        let finished = agent.run(&["join", "-", "--json"], &token).await?;
        assert_eq!((finished.code, failure_code(&finished)), refused_with(code), "{at}: {}", finished.stderr);
        assert!(!finished.stderr.contains(&token), "a token is never repeated");
        let run = agent.run(&["run", "--json"], "").await?;
        assert_eq!(failure_code(&run), refused_with(ErrorCode::NotJoined).1, "{at}: nothing is stored");
    }
    let twice = AgentSite::new(&dir.path().join("first")).run(&["join", "-", "--json"], &token).await?;
    assert_eq!((twice.code, failure_code(&twice)), refused_with(ErrorCode::AlreadyJoined));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_vaults_with_one_token_exactly_one_joins() -> Result<()> {
    let dir = home()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let _hub = site.start().await?;
    let token = site.invite("wanted").await?;

    let joins = (0..20).map(|at| {
        let agent = AgentSite::new(&dir.path().join(format!("vault-{at}")));
        let token = token.clone();
        async move { agent.run(&["join", "-", "--json"], &token).await }
    });
    let finished: Vec<Finished> = futures_util::future::try_join_all(joins).await?;

    let (joined, refused): (Vec<_>, Vec<_>) = finished.iter().partition(|finished| finished.code == Some(0));
    assert_eq!(joined.len(), 1);
    for loser in refused {
        assert_eq!((loser.code, failure_code(loser)), refused_with(ErrorCode::TokenUsed), "{}", loser.stderr);
    }
    let listed = site.json(&["agent", "list"]).await?;
    assert_eq!(listed["agents"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_was_cut_off_can_be_repeated_by_the_same_vault_and_by_no_other() -> Result<()> {
    let dir = home()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let hub = site.start().await?;
    let token = site.invite("office").await?;
    let mine = RawAgent::new(&token, 1)?;
    let other = RawAgent::new(&token, 2)?;

    // Redeemed, and cut before the heartbeat.
    drop(mine.link(hub.tunnel, true).await?);
    let state = site.json(&["agent", "show", "office"]).await?;
    assert_eq!((&state["state"], &state["join_tokens"][0]["state"]), (&json!("invited"), &json!("bound")));

    let (_, stolen) = other.prove(hub.tunnel, true).await?;
    assert_eq!(stolen, Verdict::Refused("KH-E1022".to_owned()));
    let by_cli = AgentSite::new(&dir.path().join("other")).run(&["join", "-", "--json"], &token).await?;
    assert_eq!((by_cli.code, failure_code(&by_cli)), refused_with(ErrorCode::TokenUsed));
    mine.join(hub.tunnel).await?;
    eventually("a used token", || async {
        let state = site.json(&["agent", "show", "office"]).await?;
        Ok((state["state"] == "active" && state["join_tokens"][0]["state"] == "used").then_some(()))
    })
    .await?;
    let (_, spent) = mine.prove(hub.tunnel, true).await?;
    assert_eq!(spent, Verdict::Refused("KH-E1022".to_owned()));
    drop(mine.link(hub.tunnel, false).await?);
    Ok(())
}

/// The agent has stored who it is, but the hub was killed before it wrote the heartbeat down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_heartbeat_was_lost_is_let_in_with_the_key_that_its_token_is_bound_to() -> Result<()> {
    let dir = home()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let hub = site.start().await?;
    let token = site.invite("office").await?;
    let mine = RawAgent::new(&token, 1)?;
    let other = RawAgent::new(&token, 2)?;
    drop(mine.link(hub.tunnel, true).await?);

    let (_, stranger) = other.prove(hub.tunnel, false).await?;
    let mut link = mine.link(hub.tunnel, false).await?;
    link.answer_ping().await?;

    assert_eq!(stranger, Verdict::Refused("KH-E1004".to_owned()));
    eventually("a used token", || async {
        let state = site.json(&["agent", "show", "office"]).await?;
        Ok((state["state"] == "active" && state["join_tokens"][0]["state"] == "used").then_some(()))
    })
    .await
}

/// A join that is killed wherever it happens to be, again and again, until one gets through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_killed_at_any_moment_leaves_a_vault_that_can_join() -> Result<()> {
    let dir = home()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let _hub = site.start().await?;

    for round in 0..8_u64 {
        let token = site.invite(&format!("round-{round}")).await?;
        let agent = AgentSite::new(&dir.path().join(format!("agent-{round}")));
        let mut joining = Process::start_with_input(agent.command(&["join", "-", "--json"])?, &token)?;
        // Later and later: before the vault, within the handshake, after the heartbeat.
        tokio::time::sleep(Duration::from_millis(round * 6)).await;
        let ended = !joining.is_running();
        joining.kill_9()?;

        let repeated = agent.run(&["join", "-", "--json"], &token).await?;
        let joined = repeated.code == Some(0);
        let before = failure_code(&repeated) == refused_with(ErrorCode::AlreadyJoined).1;
        assert!(joined || before, "round {round}, ended {ended}: {}", repeated.stderr);
        let _running = agent.start(&["run"])?;
        linked_at(&site).await?;
    }
    Ok(())
}

fn home() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("keyhaven-enrolment-").tempdir()?)
}

/// Exit code and code of a failure of this kind.
fn refused_with(code: ErrorCode) -> (Option<i32>, Option<String>) {
    (Some(i32::from(code.exit() as u8)), Some(code.to_string()))
}

/// Waits until the agent itself says that it is linked.
async fn linked(agent: &AgentSite) -> Result<Value> {
    eventually("a linked agent", || async {
        let finished = agent.run(&["status", "--json"], "").await?;
        let status: Value = serde_json::from_str(finished.stdout.trim()).unwrap_or_default();
        Ok((status["status"]["link"]["state"] == "linked").then_some(status))
    })
    .await
}

/// Waits until the hub says that an agent is linked.
async fn linked_at(site: &HubSite) -> Result<()> {
    eventually("a link at the hub", || async { Ok((!site.links().await?.is_empty()).then_some(())) }).await
}

async fn until_status(chat: &Chat, hub: SocketAddr, status: u16) -> Result<Answer> {
    eventually(&format!("an answer with {status}"), || async {
        let answer = chat.ask(hub).await?;
        Ok((answer.status() == status).then_some(answer))
    })
    .await
}

/// Gives a hub the tunnel keys of a new one; fleet and signing key stay.
fn new_pins(hub: &Path, scratch: &Path) -> Result<()> {
    let fresh = scratch.join("fresh");
    HubKeys::init(&fresh, OfflineFiles::default())?;
    let read = |dir: &Path| -> Result<Value> { Ok(serde_json::from_slice(&std::fs::read(dir.join(IDENTITY_FILE))?)?) };
    let (mut identity, new) = (read(hub)?, read(&fresh)?);
    identity["live_pin"] = new["live_pin"].clone();
    identity["backup_pin"] = new["backup_pin"].clone();
    std::fs::write(hub.join(IDENTITY_FILE), identity.to_string())?;
    std::fs::copy(fresh.join(TUNNEL_KEY_FILE), hub.join(TUNNEL_KEY_FILE))?;
    Ok(())
}
