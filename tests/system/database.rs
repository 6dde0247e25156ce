//! A hub whose database is on a server: the same books, and what happens when the server dies.
//!
//! Invariant: what a consumer has received is in the books once, whatever dies.

use crate::scene::Scene;
use crate::scene::until_served;
use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_hub::config::Database;
use keyhaven_hub::registry::Registry;
use keyhaven_hub::store::accounts::DEFAULT_ACCOUNT;
use keyhaven_hub::store::calls::UsageFilter;
use keyhaven_hub::store::calls::UsageRow;
use keyhaven_hub::store::ledger::Side;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_tests::consumer_call::CALL_ID_HEADER;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::mariadb::MariaDb;
use keyhaven_tests::prices::BALANCE;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Consumers that call all the time.
const CONSUMERS: usize = 4;

/// Deaths of the server.
const DEATHS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_and_the_embedded_database_keep_the_same_books() -> Result<()> {
    let url = MariaDb::shared()?.database().await?;
    let embedded = books_after_calls(&Scene::build().await?, None).await?;

    let scene = Scene::build_as(|site| Ok(site.on_database(&url))).await?;
    let on_server = books_after_calls(&scene, Some(url.clone())).await?;

    assert_eq!(embedded, on_server);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_during_calls_has_every_answer_in_its_books_once() -> Result<()> {
    let server = MariaDb::start()?;
    let url = server.database().await?;
    let mut scene = Scene::build_as(|site| Ok(site.on_database(&url))).await?;
    let tasks = Tasks::new();
    let (served, is_over) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
    for _ in 0..CONSUMERS {
        let (chat, hub) = (scene.chat(), scene.hub.consumer);
        let (served, is_over) = (served.clone(), is_over.clone());
        tasks.spawn("consumer", async move {
            while !is_over.load(Ordering::Relaxed) {
                let answer = chat.ask(hub).await.unwrap();
                match (answer.status(), answer.code().as_deref()) {
                    (200, None) if answer.complete() => {
                        let id = answer.message.unwrap().head.first(CALL_ID_HEADER).unwrap().to_owned();
                        assert!(served.lock().unwrap().insert(id));
                    }
                    (503, Some("KH-E2048")) => tokio::time::sleep(Duration::from_millis(20)).await,
                    other => panic!("{other:?}: {}", answer.text()),
                }
            }
        });
    }
    let count = || served.lock().unwrap().len();
    for _ in 0..DEATHS {
        let before = count();
        eventually("calls", || async { Ok((count() > before + 50).then_some(())) }).await?;
        server.kill()?;
        eventually("a hub that sells nothing", || async {
            let answer = scene.chat().ask(scene.hub.consumer).await?;
            Ok((answer.code().as_deref() == Some("KH-E2048")).then_some(()))
        })
        .await?;
        server.run()?;
        until_served(&scene.chat(), scene.hub.consumer).await?;
    }
    is_over.store(true, Ordering::Relaxed);
    tasks.shut_down(Duration::from_secs(20)).await;
    scene.hub.process.terminate()?;
    scene.hub.process.wait(Duration::from_secs(20)).await?;

    let served = served.lock().unwrap().clone();
    ensure!(served.len() > 50 * DEATHS, "only {} calls", served.len());
    let database = Database { url: Some(url.into()) };
    let store = Registry::open_with(scene.site.dir(), None, &database).await?.store;
    for id in &served {
        let json = store.call_json(id.parse()?).await?.with_context(|| format!("{id} was served and is lost"))?;
        let record: Value = serde_json::from_str(&json)?;
        ensure!(record["settled"]["charge"].as_i64().is_some_and(|charge| charge > 0), "{record}");
    }
    let reconciled = scene.site.json(&["reconcile", "run"]).await?;
    assert_eq!(reconciled["books"]["found"], json!(0), "{reconciled}");
    assert_eq!(scene.site.json(&["reconcile", "show"]).await?, reconciled);
    // Each call is there once by its key, so what was paid says whether one was paid twice.
    let charged: i64 = store.usage(&UsageFilter::default()).await?.iter().map(|row| row.cost.0).sum();
    assert_eq!(store.balance(Side::Consumer(DEFAULT_ACCOUNT)).await?.0, BALANCE.0 - charged);
    println!("{} answers over {DEATHS} deaths of the server", served.len());
    Ok(())
}

/// What the books say, without what differs from run to run: usage, balances, entries, postings.
type Books = (Vec<UsageRow>, Vec<(Side, NanoUsd)>, u64, u64);

/// The same calls, and what the books say of them.
async fn books_after_calls(scene: &Scene, database: Option<String>) -> Result<Books> {
    // Whole ones: what a call that is left costs depends on the time that it took.
    for n in 0..10 {
        let chat = if n % 2 == 0 { scene.chat() } else { scene.chat().streamed(&format!("call-{n}"), "chunks-20-1") };
        let answer = chat.ask(scene.hub.consumer).await?;
        ensure!(answer.status() == 200 && answer.complete(), "{}", answer.text());
    }
    let database = Database { url: database.map(Into::into) };
    let store = Registry::open_with(scene.site.dir(), None, &database).await?.store;
    let usage = eventually("all calls in the books", || async {
        let usage = store.usage(&UsageFilter::default()).await?;
        // Ten, and the one that the scene began with.
        Ok((usage.iter().map(|row| row.calls).sum::<u64>() >= 11).then_some(usage))
    })
    .await?;
    let usage: Vec<_> = usage.into_iter().map(|row| UsageRow { key: ApiKeyId([0; 16]), ..row }).collect();
    let mut sides = Vec::new();
    for side in [Side::Consumer(DEFAULT_ACCOUNT), Side::Owed, Side::Margin, Side::Suspense, Side::Deposits] {
        sides.push((side, store.balance(side).await?));
    }
    let reconciled = store.reconcile(0).await?;
    assert_eq!(reconciled.findings, []);
    Ok((usage, sides, reconciled.entries, reconciled.postings))
}
