//! Hub and agent killed, restarted and ended, at work and at rest; keys that come and go beside a
//! running agent.
//!
//! Invariant: whatever is killed, the other side recovers by itself, and a call that was cut
//! looks cut.

use crate::scene::Scene;
use crate::scene::until_served;
use anyhow::Context;
use anyhow::Result;
use keyhaven_tests::consumer::Call;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::consumer::get_with;
use keyhaven_tests::daemons::AgentSite;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::daemons::PATIENCE;
use keyhaven_tests::daemons::eventually;
use serde_json::json;
use std::path::Path;

const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_comes_back_by_itself_after_its_hub_was_killed() -> Result<()> {
    let mut scene = Scene::build_as(HubSite::on_fixed_ports).await?;

    for round in 0..ROUNDS {
        let at_work = round % 2 == 0;
        let case = format!("killed-hub-{round}");
        let mut call = None;
        if at_work {
            let request = scene.chat().streamed(&case, "chunks-2000-20").request();
            let mut begun = Call::begin(scene.hub.consumer, &request).await?;
            begun.until_body(200).await?;
            call = Some(begun);
        }
        scene.hub.process.kill_9()?;
        if let Some(call) = call {
            let cut = call.finish().await;
            assert!(cut.status() == 200 && !cut.complete(), "round {round}: a cut answer looks cut");
            let gone = |exchange: &keyhaven_tests::upstream::record::Exchange| {
                exchange.case.as_deref() == Some(&case) && exchange.peer_closed_at.is_some()
            };
            scene.upstream.wait_for(gone).await.context("the agent left the vendor's connection open")?;
        }
        scene.hub = scene.site.start().await?;
        until_served(&scene.chat(), scene.hub.consumer).await?;
    }
    assert!(scene.agent_process.is_running());
    assert!(!scene.agent_process.stderr().contains("panicked"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_goes_on_after_its_agent_was_killed_and_takes_it_back() -> Result<()> {
    // A call that waited for the agent would not tell how the hub stands without it.
    let mut scene = Scene::build_as(|site| Ok(site.set("calls.agent_wait_s", "0"))).await?;

    for round in 0..ROUNDS {
        let at_work = round % 2 == 0;
        let case = format!("killed-agent-{round}");
        let mut call = None;
        if at_work {
            let request = scene.chat().streamed(&case, "chunks-2000-20").request();
            let mut begun = Call::begin(scene.hub.consumer, &request).await?;
            begun.until_body(200).await?;
            call = Some(begun);
        }
        scene.agent_process.kill_9()?;
        if let Some(call) = call {
            let cut = call.finish().await;
            assert!(cut.status() == 200 && !cut.complete(), "round {round}: a cut answer looks cut");
        }
        let without = eventually("a refusal", || async {
            let answer = scene.chat().ask(scene.hub.consumer).await?;
            Ok((answer.code().as_deref() == Some("KH-E2009")).then_some(answer))
        })
        .await?;
        assert_eq!(without.status(), 503);
        scene.agent_process = scene.agent.start_before(&scene.upstream)?;
        until_served(&scene.chat(), scene.hub.consumer).await?;
    }
    assert!(!scene.hub.process.stderr().contains("panicked"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_older_of_two_copies_finishes_its_call_and_is_told_why_it_ends() -> Result<()> {
    let scene = Scene::build().await?;
    let hub = scene.hub.consumer;
    let mut call = Call::begin(hub, &scene.chat().streamed("older", "step").request()).await?;
    scene.upstream.steps().release("older", 1);
    call.until_body(1).await?;
    let copy = AgentSite::new(&scene.dir.path().join("copy"));
    std::fs::create_dir(copy.dir())?;
    for file in ["vault.json", "vault.key"] {
        std::fs::copy(scene.agent.dir().join(file), copy.dir().join(file))?;
    }

    let mut newer = copy.start_before(&scene.upstream)?;
    eventually("the newer link", || async {
        let links = scene.site.links().await?;
        Ok(links.iter().any(|link| link["streams"] == 0 && link["offers"] != json!([])).then_some(()))
    })
    .await?;
    let told_early = scene.agent_process.stderr().contains("KH-E1006");
    let by_newer = until_served(&scene.chat(), hub).await?;
    scene.upstream.steps().release("older", 100);
    let by_older = call.answer().await;
    eventually("a word to the older", || async { Ok(scene.agent_process.stderr().contains("KH-E1006").then_some(())) })
        .await?;

    assert!(!told_early && by_newer.complete());
    assert!(by_older.complete() && by_older.text().ends_with("data: [DONE]\n\n"), "{}", by_older.text());
    assert!(newer.is_running() && !newer.stderr().contains("KH-E1006"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_asked_to_end_lets_calls_finish() -> Result<()> {
    let mut scene = Scene::build_as(HubSite::on_fixed_ports).await?;
    let hub = scene.hub.consumer;
    let mut streamed = Call::begin(hub, &scene.chat().streamed("drain-stream", "step").request()).await?;
    scene.upstream.steps().release("drain-stream", 1);
    streamed.until_body(1).await?;
    // Waiting for its head while the hub drains.
    let mut plain =
        Call::begin(hub, &Chat { stream: false, ..scene.chat().streamed("drain-plain", "step") }.request()).await?;
    scene.upstream.wait_for(|exchange| exchange.case.as_deref() == Some("drain-plain")).await?;
    let idle = get_with(hub, "/v1/models", &format!("authorization: Bearer {}\r\n", scene.api_key)).await?;

    scene.hub.process.terminate()?;
    scene.hub.process.says("draining", PATIENCE).await?;
    eventually("a closed door", || async { Ok(tokio::net::TcpStream::connect(hub).await.is_err().then_some(())) })
        .await?;
    scene.upstream.steps().release("drain-stream", 100);
    scene.upstream.steps().release("drain-plain", 100);
    let (streamed, plain) = (streamed.answer().await, plain.answer().await);

    assert_eq!(idle.status(), 200);
    assert!(streamed.complete() && streamed.text().ends_with("data: [DONE]\n\n"), "{}", streamed.text());
    assert!(plain.complete() && plain.status() == 200, "{}", plain.text());
    assert_eq!(scene.hub.process.wait(PATIENCE).await?.code(), Some(0));
    assert!(!scene.site.dir().join("listening.json").exists());
    scene.hub = scene.site.start().await?;
    until_served(&scene.chat(), scene.hub.consumer).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_asked_to_end_lets_calls_finish() -> Result<()> {
    let mut scene = Scene::build().await?;
    let hub = scene.hub.consumer;
    let mut streamed = Call::begin(hub, &scene.chat().streamed("leave", "step").request()).await?;
    scene.upstream.steps().release("leave", 1);
    streamed.until_body(1).await?;

    scene.agent_process.terminate()?;
    let refused = eventually("a refusal", || async {
        let answer = scene.chat().ask(hub).await?;
        Ok((answer.status() != 200).then_some(answer))
    })
    .await?;
    let running = scene.agent_process.is_running();
    // The status is written each second.
    eventually("a status that says so", || async {
        let status = scene.agent.json(&["status"], "").await?;
        Ok((status["status"]["link"]["state"] == "draining").then_some(()))
    })
    .await?;
    scene.upstream.steps().release("leave", 100);
    let streamed = streamed.answer().await;

    assert_eq!(refused.code().as_deref(), Some("KH-E2009"), "{}", refused.text());
    assert!(running, "it waits for its call");
    assert!(streamed.complete() && streamed.text().ends_with("data: [DONE]\n\n"), "{}", streamed.text());
    assert_eq!(scene.agent_process.wait(PATIENCE).await?.code(), Some(0));
    assert!(!scene.agent.dir().join("status.json").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_cuts_what_the_first_one_waits_for() -> Result<()> {
    let mut scene = Scene::build().await?;
    let request = |case: &str| scene.chat().streamed(case, "stall-body").request();
    let mut first = Call::begin(scene.hub.consumer, &request("cut-at-agent")).await?;
    first.until_body(1).await?;
    scene.agent_process.terminate()?;
    eventually("a draining agent", || async {
        let answer = scene.chat().ask(scene.hub.consumer).await?;
        Ok((answer.status() != 200).then_some(()))
    })
    .await?;
    scene.agent_process.terminate()?;
    let cut = first.finish().await;
    assert!(cut.status() == 200 && !cut.complete());
    assert_eq!(scene.agent_process.wait(PATIENCE).await?.code(), Some(0));

    scene.agent_process = scene.agent.start_before(&scene.upstream)?;
    until_served(&scene.chat(), scene.hub.consumer).await?;
    let mut second =
        Call::begin(scene.hub.consumer, &scene.chat().streamed("cut-at-hub", "stall-body").request()).await?;
    second.until_body(1).await?;
    scene.hub.process.terminate()?;
    scene.hub.process.says("draining", PATIENCE).await?;
    scene.hub.process.terminate()?;
    let cut = second.finish().await;
    assert!(cut.status() == 200 && !cut.complete());
    assert_eq!(scene.hub.process.wait(PATIENCE).await?.code(), Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_come_and_go_beside_a_running_agent_reach_the_hub() -> Result<()> {
    let scene = Scene::build().await?;
    let offers = || async {
        let links = scene.site.links().await?;
        let offers = links[0]["offers"].as_array().context("no offers")?;
        anyhow::Ok(offers.iter().filter_map(|offer| offer["provider"].as_str().map(str::to_owned)).collect::<Vec<_>>())
    };
    let listed = scene.agent.json(&["key", "list"], "").await?;
    let key = listed["keys"].as_array().and_then(|keys| keys.iter().find(|key| key["provider"] == "openai"));
    let id = key.and_then(|key| key["id"].as_str()).context("no key")?.to_owned();

    let tried = scene.agent.json(&["key", "remove", &id, "--dry-run"], "").await?;
    assert!(offers().await?.contains(&"openai".to_owned()), "{tried}");
    scene.agent.json(&["key", "remove", &id, "--yes"], "").await?;
    eventually("a withdrawn offer", || async { Ok((!offers().await?.contains(&"openai".to_owned())).then_some(())) })
        .await?;
    let refused = scene.chat().ask(scene.hub.consumer).await?;
    let secret = scene.upstream.keys().of(keyhaven_tests::upstream::vendor::Vendor::OpenAi).to_owned();
    let added = scene.agent.json(&["key", "add", "openai", "--attest", "--label", "again"], &secret).await?;
    until_served(&scene.chat(), scene.hub.consumer).await?;

    assert_eq!(refused.code().as_deref(), Some("KH-E2009"), "{}", refused.text());
    assert!(!added.to_string().contains(&secret), "masked");
    assert!(offers().await?.contains(&"openai".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_listens_on_nothing() -> Result<()> {
    let scene = Scene::build().await?;
    let mut call = Call::begin(scene.hub.consumer, &scene.chat().streamed("look", "step").request()).await?;
    scene.upstream.steps().release("look", 1);
    call.until_body(1).await?;

    let agent = sockets(scene.agent_process.pid())?;
    let hub = sockets(scene.hub.process.pid())?;

    assert_eq!(agent.listening, Vec::<String>::new());
    assert!(agent.connected >= 2, "it was looked at while it had a link and a vendor: {agent:?}");
    assert_eq!(hub.listening.len(), 4, "the same look finds the hub's listeners, handover.sock among them: {hub:?}");
    Ok(())
}

/// The sockets of one process.
#[derive(Debug, Default)]
struct Sockets {
    /// Lines of the kernel's tables: TCP and Unix listeners, and UDP that anybody may write to.
    listening: Vec<String>,
    connected: usize,
}

fn sockets(pid: u32) -> Result<Sockets> {
    let process = Path::new("/proc").join(pid.to_string());
    let mut inodes = Vec::new();
    for entry in std::fs::read_dir(process.join("fd"))? {
        let target = std::fs::read_link(entry?.path()).unwrap_or_default();
        let text = target.to_string_lossy().into_owned();
        inodes.extend(text.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).map(str::to_owned));
    }
    let mut found = Sockets::default();
    for (table, inode_at) in [("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("unix", 6)] {
        let path = process.join("net").join(table);
        // A kernel without IPv6 has no such table.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if !fields.get(inode_at).is_some_and(|inode| inodes.iter().any(|own| own == inode)) {
                continue;
            }
            let listens = match table {
                // 0A is TCP_LISTEN.
                "tcp" | "tcp6" => fields.get(3) == Some(&"0A"),
                // 07 is a UDP socket without a peer.
                "udp" | "udp6" => fields.get(3) == Some(&"07"),
                // __SO_ACCEPTCON: somebody called listen.
                _ => fields.get(3).is_some_and(|flags| flags.ends_with("10000")),
            };
            if listens {
                found.listening.push(line.to_owned());
            } else {
                found.connected += 1;
            }
        }
    }
    Ok(found)
}
