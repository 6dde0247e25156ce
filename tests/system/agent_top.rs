//! What an operator sees of live links: `agent top`, the series in `/metrics`, `agent drain --wait`.
//!
//! Invariant: numbers are compared with what the test itself did; times and rates are not judged.

use crate::scene::Scene;
use anyhow::Context;
use anyhow::Result;
use keyhaven_tests::consumer::Call;
use keyhaven_tests::consumer::get;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::daemons::PATIENCE;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::daemons::failure_code;
use keyhaven_tests::process::Process;

const CALLS: u64 = 7;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_shows_links_at_once_again_and_again_and_as_json() -> Result<()> {
    let scene = Scene::build().await?;
    let before =
        scene.site.json(&["agent", "top", "--once"]).await?["links"][0]["calls"].as_u64().context("no calls")?;
    for _ in 0..CALLS {
        assert_eq!(scene.chat().ask(scene.hub.consumer).await?.status(), 200);
    }

    let once = scene.site.run(&["agent", "top", "--once", "--sort", "received", "--rows", "5"]).await?;
    let json = scene.site.json(&["agent", "top", "--once"]).await?;
    let mut running = Process::start(scene.site.command(&["agent", "top", "--interval", "1s"])?)?;
    let frames = || running.stdout().matches("AGENT ").count();
    eventually("two frames", || async { Ok((frames() >= 2).then_some(())) }).await?;

    assert_eq!((once.code, once.stderr.as_str()), (Some(0), ""));
    let lines: Vec<&str> = once.stdout.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{}", once.stdout);
    assert!(lines.last().is_some_and(|line| line.starts_with("good           open ")), "{}", once.stdout);
    assert!(!once.stdout.contains('\u{1b}') && !running.stdout().contains('\u{1b}'), "no terminal, no sequences");
    assert_eq!(json["schema"], "keyhaven/agent-top/v1");
    assert_eq!(json["linked"], 1);
    assert_eq!(json["links"][0]["name"], "good");
    assert_eq!(json["links"][0]["calls"].as_u64(), Some(before + CALLS));
    assert!(running.is_running());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_without_a_hub_says_so() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = HubSite::new(&dir.path().join("hub")).on_fixed_ports()?;

    let absent = site.run(&["--json", "agent", "top"]).await?;

    assert_eq!(failure_code(&absent).as_deref(), Some("KH-E5009"), "{}", absent.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_series_of_a_link_end_with_it_and_totals_stay() -> Result<()> {
    let mut scene = Scene::build().await?;
    for _ in 0..CALLS {
        assert_eq!(scene.chat().ask(scene.hub.consumer).await?.status(), 200);
    }
    let metrics = || async { anyhow::Ok(get(scene.hub.admin, "/metrics").await?.text()) };
    let total = |text: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix("keyhaven_agent_gateway_calls_total "))?.parse().ok()
    };
    let with = metrics().await?;
    let calls = total(&with).context("no total")?;

    scene.agent_process.kill_9()?;
    let without = eventually("series that end", || async {
        Ok(Some(metrics().await?).filter(|text| !text.contains("agent=\"good\"")))
    })
    .await?;

    assert!(calls >= CALLS, "{with}");
    for series in [
        r#"keyhaven_agent_gateway_link_rtt_seconds{agent="good"}"#,
        r#"keyhaven_agent_gateway_link_bytes_total{agent="good",direction="received"}"#,
        r#"keyhaven_agent_gateway_link_queue_delay_seconds{agent="good"}"#,
        r#"keyhaven_agent_gateway_link_credit_stalls_total{agent="good"}"#,
    ] {
        assert!(with.lines().any(|line| line.starts_with(series)), "{series} in\n{with}");
    }
    assert_eq!(total(&without), Some(calls));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_drains_an_agent_is_told_when_it_has_finished() -> Result<()> {
    let scene = Scene::build().await?;
    let mut call = Call::begin(scene.hub.consumer, &scene.chat().streamed("slow", "step").request()).await?;
    scene.upstream.steps().release("slow", 1);
    call.until_body(1).await?;

    let busy = scene.site.run(&["--json", "agent", "drain", "good", "--wait", "1s"]).await?;
    let waiting = scene.site.command(&["agent", "drain", "good", "--wait", "1m"])?;
    let mut waiting = Process::start(waiting)?;
    scene.upstream.steps().release("slow", 100);
    let answer = call.answer().await;
    let ended = waiting.wait(PATIENCE).await?;

    assert_eq!(failure_code(&busy).as_deref(), Some("KH-E5012"), "{}", busy.stderr);
    assert!(answer.complete() && answer.status() == 200);
    assert_eq!(ended.code(), Some(0), "{}", waiting.stderr());
    assert!(waiting.stderr().contains("no call under way"), "{}", waiting.stderr());
    Ok(())
}
