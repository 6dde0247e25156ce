//! Restarts that cost no call: of an agent, killed or asked to end, and of the hub.
//!
//! Invariant: whoever could connect is answered 200, once and whole.

use crate::scene::Scene;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::daemons::PATIENCE;
use keyhaven_tests::daemons::eventually;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;

/// Restarts in a row.
const ROUNDS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_while_the_agent_is_gone_is_served_when_it_is_back() -> Result<()> {
    let mut scene = Scene::build().await?;
    for round in 0..ROUNDS {
        scene.agent_process.kill_9()?;
        eventually("a hub without agents", || async { Ok(scene.site.links().await?.is_empty().then_some(())) }).await?;
        let chat = scene.chat();
        let (agent, hub) = (&scene.agent, scene.hub.consumer);
        let (answer, started) = tokio::join!(chat.ask(hub), async { agent.start_before(&scene.upstream) });

        scene.agent_process = started?;
        let answer = answer?;
        assert_eq!((answer.status(), answer.complete()), (200, true), "round {round}: {}", answer.text());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_restarts_under_load_costs_no_call() -> Result<()> {
    let mut scene = Scene::build().await?;
    let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut consumers = JoinSet::new();
    for _ in 0..4 {
        let (chat, hub, over, served) = (scene.chat(), scene.hub.consumer, over.clone(), served.clone());
        consumers.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let answer = chat.ask(hub).await?;
                ensure!(answer.status() == 200 && answer.complete(), "{}", answer.text());
                served.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    for _ in 0..ROUNDS {
        served_since(&served).await?;
        scene.agent_process.terminate()?;
        assert_eq!(scene.agent_process.wait(PATIENCE).await?.code(), Some(0));
        scene.agent_process = scene.agent.start_before(&scene.upstream)?;
    }
    served_since(&served).await?;
    over.store(true, Ordering::Relaxed);

    while let Some(ended) = consumers.join_next().await {
        ended??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_right_after_the_hubs_restart_is_served_when_its_agent_is_back() -> Result<()> {
    let mut scene = Scene::build_as(HubSite::on_fixed_ports).await?;
    for round in 0..ROUNDS {
        scene.hub.process.kill_9()?;
        scene.hub = scene.site.start().await?;

        let answer = scene.chat().ask(scene.hub.consumer).await?;

        assert_eq!((answer.status(), answer.complete()), (200, true), "round {round}: {}", answer.text());
    }
    Ok(())
}

/// Waits until some more calls were served.
async fn served_since(served: &AtomicUsize) -> Result<()> {
    let before = served.load(Ordering::Relaxed);
    eventually("more served calls", || async { Ok((served.load(Ordering::Relaxed) > before + 20).then_some(())) }).await
}
