//! Two owners of the same vendor: what one cannot serve, the other one is asked for.
//!
//! Invariant: a consumer sees one attempt, whole, and the vendor sees the same request each time.

use crate::scene::Scene;
use anyhow::Context;
use anyhow::Result;
use keyhaven_tests::consumer::Call;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::consumer::get;
use keyhaven_tests::daemons::AgentSite;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::process::Process;
use std::collections::HashSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_one_owner_leads_to_the_next_and_then_to_a_native_answer() -> Result<()> {
    let scene = Scene::build().await?;
    let (_second, _process) = second_agent(&scene).await?;
    let chat = Chat { case: "limited".to_owned(), play: "status-429".to_owned(), ..scene.chat() };

    let answer = chat.ask(scene.hub.consumer).await?;

    assert_eq!((answer.status(), answer.complete()), (429, true), "{}", answer.text());
    assert_eq!(answer.code().as_deref(), Some("KH-E2016"));
    let asked = scene.upstream.exchanges_of("limited");
    assert_eq!(asked.len(), 2, "each owner once");
    assert_eq!(asked[0].request.body, asked[1].request.body);
    let metrics = get(scene.hub.admin, "/metrics").await?.text();
    let failovers = r#"keyhaven_user_gateway_failovers_total{reason="owner_rate_limited"} 1"#;
    assert!(metrics.contains(failovers), "{metrics}");
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_error_leads_to_the_next_owner_and_the_last_one_passes_as_it_is() -> Result<()> {
    let scene = Scene::build().await?;
    let (_second, _process) = second_agent(&scene).await?;
    let chat = Chat { case: "broken".to_owned(), play: "status-503".to_owned(), ..scene.chat() };

    let answer = chat.ask(scene.hub.consumer).await?;

    let asked = scene.upstream.exchanges_of("broken");
    assert_eq!((answer.status(), answer.complete(), asked.len()), (503, true, 2), "{}", answer.text());
    let sent = asked.iter().filter_map(|exchange| exchange.response());
    let bodies: HashSet<_> = sent.map(|sent| sent.body.clone()).collect();
    let body = &answer.message.as_ref().context("no answer")?.body;
    assert!(bodies.contains(body), "as the vendor sent it: {}", answer.text());
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_agent_is_killed_before_the_head_is_answered_through_the_other() -> Result<()> {
    let mut scene = Scene::build().await?;
    let (_second, mut second) = second_agent(&scene).await?;
    let chat = Chat { case: "killed".to_owned(), play: "stall-upload-1500".to_owned(), ..scene.chat() };
    let mut call = Call::begin(scene.hub.consumer, &chat.request()).await?;
    scene.upstream.wait_for(|exchange| exchange.case.as_deref() == Some("killed")).await?;

    let links = scene.site.links().await?;
    let busy = links.iter().find(|link| link["streams"] == 1).context("nobody has the call")?;
    let killed = if busy["name"] == "good" { &mut scene.agent_process } else { &mut second };
    killed.kill_9()?;
    eventually("a second attempt", || async { Ok((scene.upstream.exchanges_of("killed").len() == 2).then_some(())) })
        .await?;
    let answer = call.answer().await;

    assert_eq!((answer.status(), answer.complete()), (200, true), "{}", answer.text());
    let asked = scene.upstream.exchanges_of("killed");
    assert_eq!(asked[0].request.body, asked[1].request.body);
    Ok(())
}

/// One more agent with keys of the same vendors, once it offers them.
async fn second_agent(scene: &Scene) -> Result<(AgentSite, Process)> {
    let agent = AgentSite::new(&scene.dir.path().join("second"));
    agent.join(&scene.site.invite("second").await?).await?;
    agent.add_keys(&scene.upstream).await?;
    let process = agent.start_before(&scene.upstream)?;
    eventually("two agents that list the same", || async {
        let links = scene.site.links().await?;
        let listing = links.iter().filter(|link| link["state"] == "open").filter(|link| {
            let offers = link["offers"].as_array();
            offers.is_some_and(|offers| {
                offers.iter().any(|offer| offer["provider"] == "openai" && offer["models"].as_u64() > Some(0))
            })
        });
        Ok((listing.count() == 2).then_some(()))
    })
    .await?;
    Ok((agent, process))
}
