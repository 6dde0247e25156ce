//! A hub whose prices are not there yet, and one whose prices change while it sells.
//!
//! Invariant: all is done by the operator's commands beside the running hub.

use crate::scene::Scene;
use crate::scene::until_served;
use crate::sold::in_zone;
use crate::sold::stated;
use anyhow::Context;
use anyhow::Result;
use keyhaven_tests::consumer::Call;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::customer::Customer;
use keyhaven_tests::customer::audit;
use keyhaven_tests::daemons::AgentSite;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::prices;
use keyhaven_tests::upstream::Upstream;
use serde_json::Value;
use serde_json::json;
use std::path::Path;

/// A dollar.
const USD: i64 = 1_000_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_sells_nothing_before_it_has_prices_and_everything_once_it_has() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let upstream = Upstream::start().await?;
    let site = HubSite::new(&dir.path().join("hub"));
    let hub = site.start().await?;
    let agent = AgentSite::new(&dir.path().join("agent"));
    agent.join(&site.invite("office").await?).await?;
    agent.add_keys(&upstream).await?;
    let _agent = agent.start_before(&upstream)?;
    let ours = Customer::create(&site, "ours", 5 * USD, &[]).await?;
    let chat = Chat::new(&ours.key);
    eventually("an offer", || async {
        let links = site.links().await?;
        Ok(links.iter().any(|link| link["offers"].as_array().is_some_and(|offers| !offers.is_empty())).then_some(()))
    })
    .await?;

    let refused = || async {
        let answer = chat.ask(hub.consumer).await?;
        anyhow::Ok((answer.status(), answer.code().unwrap_or_default()))
    };
    let none = (503, "KH-E2051".to_owned());
    assert_eq!(refused().await?, none, "no prices");
    site.json(&["price", "import", &file(dir.path(), &prices::table())?]).await?;
    assert_eq!(refused().await?, none, "a draft is no price");
    site.json(&["price", "publish", "--yes"]).await?;
    assert_eq!(refused().await?, none, "no zone");
    site.json(&["price", "zone", "set", "standard", "1.15"]).await?;
    assert_eq!(refused().await?, none, "no tier");
    site.json(&["price", "tier", "set", "standard", "0.8"]).await?;

    let answer = until_served(&chat, hub.consumer).await?;
    let record = ours.record(hub.consumer, &answer.call_id()).await?.context("no record")?;
    assert_eq!(record["cost_nano_usd"], in_zone(cost_of(&answer, 10_000)?), "{record}");
    ours.until_balance(hub.consumer, 5 * USD - in_zone(cost_of(&answer, 10_000)?)).await?;
    assert_eq!(ours.ask(hub.consumer, "usage").await?["calls"], 1, "what was refused was not sold");
    let unpriced = Chat { model: "gpt-of-tomorrow".to_owned(), ..chat.clone() }.ask(hub.consumer).await?;
    assert_eq!((unpriced.status(), unpriced.code().as_deref()), (404, Some("KH-E2052")), "{}", unpriced.text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_keeps_the_prices_that_it_began_with() -> Result<()> {
    let scene = Scene::build().await?;
    let (site, hub) = (&scene.site, scene.hub.consumer);
    let ours = Customer::create(site, "ours", 5 * USD, &[]).await?;
    let chat = Chat::new(&ours.key);
    let mut early = Call::begin(hub, &chat.clone().streamed("early", "step").request()).await?;
    scene.upstream.steps().release("early", 1);
    early.until_body(1).await?;

    let mut table = prices::table();
    // The dated name too: it is the one that answers, and the lower price of both would count.
    for name in ["gpt-4o", "gpt-4o-2024-08-06"] {
        table[name]["output_cost_per_token"] = json!(2e-05);
    }
    site.json(&["price", "import", &file(scene.dir.path(), &table)?]).await?;
    let changed = site.json(&["price", "diff"]).await?;
    assert!(changed.to_string().contains("gpt-4o"), "{changed}");
    site.json(&["price", "publish", "--yes"]).await?;
    // It is in force after ten seconds, in which agents get it; nothing is refused meanwhile.
    let late = eventually("a call at the new prices", || async {
        let answer = chat.ask(hub).await?;
        anyhow::ensure!(answer.status() == 200 && answer.complete(), "{}", answer.text());
        let record = ours.record(hub, &answer.call_id()).await?.context("no record")?;
        let (version, per_token) = if record["price_version"] == 1 { (1, 10_000) } else { (2, 20_000) };
        anyhow::ensure!(record["price_version"] == version, "{record}");
        anyhow::ensure!(record["cost_nano_usd"] == in_zone(cost_of(&answer, per_token)?), "{record}");
        anyhow::ensure!(record["agreement"] == "agreed", "{record}");
        Ok((version == 2).then_some(record))
    })
    .await?;
    scene.upstream.steps().release("early", 100);
    let early = early.answer().await;

    let record = ours.record(hub, &early.call_id()).await?.context("no record")?;
    assert_eq!(record["price_version"], 1, "{record}");
    assert_eq!(record["cost_nano_usd"], in_zone(cost_of(&early, 10_000)?), "{record}");
    assert_eq!((&record["agreement"], &record["rule"]), (&json!("agreed"), &json!("stated")), "{record}");
    assert_ne!(record["price_hash"], late["price_hash"]);
    let shown = ours.ask(hub, "prices").await?;
    assert_eq!(shown["hash"], late["price_hash"], "{shown}");
    audit(site).await?;
    scene.unharmed().await
}

/// At list prices with so many nano-dollars for a token of output.
fn cost_of(answer: &keyhaven_tests::consumer::Answer, output_price: i64) -> Result<i64> {
    let (fresh, cached, output) = stated(answer)?;
    Ok(fresh * 2_500 + cached * 1_250 + output * output_price)
}

fn file(dir: &Path, table: &Value) -> Result<String> {
    let path = dir.join("prices.json");
    std::fs::write(&path, table.to_string())?;
    Ok(path.display().to_string())
}
