//! Agents that drain, leave and come back while consumers call on and on.
//!
//! Invariant: no call fails, whichever agent it would have gone to.

use crate::scene::Scene;
use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::daemons::AgentSite;
use keyhaven_tests::daemons::PATIENCE;
use keyhaven_tests::daemons::eventually;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;

const CALLS: u64 = 5_000;

const CALLERS: u64 = 8;

/// Agents go away at least so often while the calls run.
const ROUNDS_MIN: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_two_agents_drain_in_turn() -> Result<()> {
    let scene = Scene::build_as(|site| Ok(site.set("calls.agent_wait_s", "30"))).await?;
    let other = AgentSite::new(&scene.dir.path().join("other"));
    other.join(&scene.site.invite("other").await?).await?;
    other.add_keys(&scene.upstream).await?;
    let mut other_process = other.start_before(&scene.upstream)?;
    eventually("two agents with the same offers", || async {
        let links = scene.site.links().await?;
        let offers = |name: &str| links.iter().find(|link| link["name"] == name).map(|link| link["offers"].to_string());
        let openai = |name: &str| offers(name).filter(|offers| offers.contains("openai"));
        Ok(openai("good").zip(openai("other")))
    })
    .await?;

    let crowd = Crowd::begin(&scene.chat(), scene.hub.consumer);
    let mut rounds = 0;
    while !crowd.is_done() || rounds < ROUNDS_MIN {
        for agent in ["good", "other"] {
            scene.site.json(&["agent", "drain", agent, "--wait", "30s"]).await?;
            scene.site.json(&["agent", "drain", agent, "--undo"]).await?;
        }
        rounds += 1;
    }
    crowd.end().await?;

    let links = scene.site.links().await?;
    let calls = |name: &str| links.iter().find(|link| link["name"] == name).and_then(|link| link["calls"].as_u64());
    assert!(calls("good") > Some(CALLS / 10) && calls("other") > Some(CALLS / 10), "both served: {links:?}");
    assert!(other_process.is_running());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_the_only_agent_is_restarted() -> Result<()> {
    let mut scene = Scene::build_as(|site| Ok(site.set("calls.agent_wait_s", "30"))).await?;

    let crowd = Crowd::begin(&scene.chat(), scene.hub.consumer);
    let mut rounds = 0;
    while !crowd.is_done() || rounds < ROUNDS_MIN {
        let some_more = crowd.answered() + CALLERS;
        eventually("calls between two restarts", || async {
            Ok((crowd.answered() >= some_more || crowd.is_done()).then_some(()))
        })
        .await?;
        scene.agent_process.terminate()?;
        scene.agent_process.wait(PATIENCE).await?;
        scene.agent_process = scene.agent.start_before(&scene.upstream)?;
        eventually("the agent's link", || async {
            let links = scene.site.links().await?;
            Ok(links
                .iter()
                .any(|link| link["state"] == "open" && link["offers"] != serde_json::json!([]))
                .then_some(()))
        })
        .await?;
        rounds += 1;
    }
    crowd.end().await?;

    let log = scene.hub.process.stderr();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    Ok(())
}

/// Consumers that call until they have called often enough together.
struct Crowd {
    begun: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    callers: JoinSet<Result<()>>,
}

impl Crowd {
    fn begin(chat: &Chat, hub: SocketAddr) -> Self {
        let answered = Arc::new(AtomicU64::new(0));
        let begun = Arc::new(AtomicU64::new(0));
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            callers.spawn(call_on(chat.clone(), hub, begun.clone(), answered.clone()));
        }
        Self { begun, answered, callers }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Also when a call has failed: then there is nothing to wait for.
    fn is_done(&self) -> bool {
        self.begun.load(Ordering::SeqCst) >= CALLS
    }

    async fn end(mut self) -> Result<()> {
        while let Some(caller) = self.callers.join_next().await {
            caller??;
        }
        assert_eq!(self.answered(), CALLS);
        Ok(())
    }
}

async fn call_on(chat: Chat, hub: SocketAddr, begun: Arc<AtomicU64>, answered: Arc<AtomicU64>) -> Result<()> {
    while begun.fetch_add(1, Ordering::SeqCst) < CALLS {
        let number = answered.load(Ordering::SeqCst);
        let served = async {
            let answer = chat.ask(hub).await.with_context(|| format!("after {number} calls"))?;
            ensure!(answer.status() == 200 && answer.complete(), "after {number} calls: {}", answer.text());
            Ok(())
        };
        // One failure ends it all.
        served.await.inspect_err(|_| begun.store(CALLS, Ordering::SeqCst))?;
        answered.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}
