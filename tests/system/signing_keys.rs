//! The hub's signing key is replaced: agents follow, prices stay in force, whoever joins later is
//! led to the same list.
//!
//! Invariant: calls are served before, and after by old and new agents alike.

use crate::scene::Scene;
use crate::scene::until_served;
use anyhow::Context;
use anyhow::Result;
use keyhaven_tests::daemons::AgentSite;
use keyhaven_tests::daemons::PATIENCE;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::daemons::failure_code;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_follow_a_new_signing_key_and_later_ones_are_led_to_it() -> Result<()> {
    let mut scene = Scene::build().await?;
    let root = scene.site.dir().join("root.key");
    let taken_away = scene.dir.path().join("stick.key");
    std::fs::rename(&root, &taken_away)?;
    let root = taken_away.display().to_string();
    until_keys(&scene.agent, 1).await?;

    let without_root = scene.site.run(&["signing-key", "rotate", "--yes", "--json"]).await?;
    let unsure = scene.site.run(&["signing-key", "rotate", "--root-key", &root, "--json"]).await?;
    let tried = scene.site.json(&["signing-key", "rotate", "--root-key", &root, "--dry-run"]).await?;
    let rotated = scene.site.json(&["signing-key", "rotate", "--root-key", &root, "--yes"]).await?;
    assert_eq!(failure_code(&without_root).as_deref(), Some("KH-E5001"));
    assert_eq!(failure_code(&unsure).as_deref(), Some("KH-E5011"));
    assert_eq!(in_use(&tried), [true], "{tried}");
    assert_eq!(in_use(&rotated), [false, true], "{rotated}");
    // The hub that runs goes on as before.
    scene.unharmed().await?;

    let replacing = scene.site.start_as(scene.site.command(&["serve", "--replace"])?).await?;
    let mut old = std::mem::replace(&mut scene.hub, replacing);
    old.process.wait(PATIENCE).await?;
    until_keys(&scene.agent, 2).await?;
    until_served(&scene.chat(), scene.hub.consumer).await?;

    // The prices were published under the old key; an agent that comes now takes them by the new one.
    let later = AgentSite::new(&scene.dir.path().join("later"));
    later.join(&scene.site.invite("later").await?).await?;
    later.add_keys(&scene.upstream).await?;
    scene.agent_process.terminate()?;
    scene.agent_process.wait(PATIENCE).await?;
    let _later = later.start_before(&scene.upstream)?;
    until_served(&scene.chat(), scene.hub.consumer).await?;
    until_keys(&later, 2).await?;
    assert_eq!(in_use(&scene.site.json(&["signing-key", "list"]).await?), [false, true]);
    let log = scene.hub.process.stderr();
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
    Ok(())
}

/// Waits until the agent has written down so many keys.
async fn until_keys(agent: &AgentSite, count: usize) -> Result<()> {
    let file = agent.dir().join("hub-keys.json");
    eventually(&format!("{count} keys of the hub"), || async {
        let Ok(json) = std::fs::read(&file) else { return Ok(None) };
        let entries = serde_json::from_slice::<Value>(&json)?;
        let entries = entries["entries"].as_array().context("no entries")?.len();
        Ok((entries == count).then_some(()))
    })
    .await
}

/// Of each key, whether it is in use.
fn in_use(listed: &Value) -> Vec<bool> {
    let keys = listed["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    keys.iter().map(|key| key["in_use"] == true).collect()
}
