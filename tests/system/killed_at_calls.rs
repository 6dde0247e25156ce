//! A hub that is killed while calls are sold: before one is, in the middle of one, and between the
//! end of one and the books.
//!
//! Invariant: every call that was sold costs once or not at all, what was held is free again, and the
//! books sum to zero.

use crate::scene::Scene;
use crate::scene::until_served;
use crate::sold::HELD;
use crate::sold::crowd;
use crate::sold::in_zone;
use crate::sold::stated;
use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::consumer::Answer;
use keyhaven_tests::consumer::Call;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::consumer_call;
use keyhaven_tests::consumer_call::CALL_ID_HEADER;
use keyhaven_tests::customer::Customer;
use keyhaven_tests::customer::audit;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::form::Form;
use std::collections::BTreeMap;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const ROUNDS: usize = 5;

/// Consumers that make one short call after the other.
const BUSY: usize = 8;

/// Short calls that are answered when the hub is killed, and in each later round some more.
const ANSWERED: usize = 100;

/// Bytes of an Anthropic stream with an event every 20 ms after some seconds: by then the hub has written
/// down what it has cost.
const SECONDS_OF_STREAM: u64 = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_killed_during_calls_loses_no_money_and_takes_none_twice() -> Result<()> {
    let mut scene = Scene::build_as(HubSite::on_fixed_ports).await?;
    let before = 20 * HELD;
    let ours = Customer::create(&scene.site, "ours", before, &[]).await?;
    let mut sold: BTreeMap<String, Option<i64>> = BTreeMap::new();
    let (mut written, mut unwritten) = (0, 0);

    for round in 0..ROUNDS {
        let hub = scene.hub.consumer;
        // Not sold yet: half of the request has come.
        let mut early = TcpStream::connect(hub).await?;
        let request = Chat::new(&ours.key).request();
        early.write_all(&request[..request.len() / 2]).await?;
        // In the middle: the hub has been told what the first tokens cost.
        let call = consumer_call::Call::new(Form::Anthropic, &ours.key).streamed(Form::Anthropic);
        let call = call.case(&format!("long-{round}")).play("chunks-2000-20");
        let mut long = Call::begin(hub, &call.bytes()).await?;
        long.until_body(SECONDS_OF_STREAM).await?;
        let long_id = long.message().and_then(|message| message.head.first(CALL_ID_HEADER)).context("no id")?;
        // At their ends, some written and some not.
        let (told, mut answered) = tokio::sync::mpsc::channel(1000);
        let mut busy = JoinSet::new();
        for _ in 0..BUSY {
            let (chat, told) = (Chat::new(&ours.key), told.clone());
            // Once the hub is gone nobody listens, and who was in the middle of a call has half an answer.
            busy.spawn(async move {
                while told.send(chat.ask(hub).await?).await.is_ok() {}
                anyhow::Ok(())
            });
        }
        drop(told);
        let mut answers: Vec<Answer> = Vec::new();
        while answers.len() < ANSWERED + 7 * round {
            answers.push(answered.recv().await.context("nobody calls any more")?);
        }
        scene.hub.process.kill_9()?;
        while let Some(answer) = answered.recv().await {
            answers.push(answer);
        }
        drop((early, long.finish().await));

        scene.hub = scene.site.start().await?;
        until_served(&scene.chat(), scene.hub.consumer).await?;
        let cut = ours.record(scene.hub.consumer, &long_id).await?.context("the long call was lost")?;
        ensure!(cut["outcome"] == "hub_lost" && cut["agent_metered"].is_null(), "{cut}");
        ensure!(cut["agreement"] == "open" && cut["estimated"] == true, "{cut}");
        let list = cut["list_nano_usd"].as_i64().context("no list price")?;
        // What Anthropic says that it has made when it begins: a token or more.
        ensure!(list > 0 && list % 10_000 == 0 && cut["cost_nano_usd"] == in_zone(list), "{cut}");
        sold.insert(long_id, Some(in_zone(list)));
        for answer in answers.iter().filter(|answer| !answer.call_id().is_empty()) {
            let record = ours.record(scene.hub.consumer, &answer.call_id()).await?;
            let Some(record) = record else {
                unwritten += 1;
                sold.insert(answer.call_id(), None);
                continue;
            };
            if record["outcome"] == "hub_lost" {
                // It was under way when that was written down, and nothing had come of it yet.
                ensure!(record["cost_nano_usd"] == 0, "{record}");
                sold.insert(answer.call_id(), Some(0));
                continue;
            }
            written += 1;
            ensure!(record["outcome"] == "complete" && record["agreement"] == "agreed", "{record}");
            let cost = record["cost_nano_usd"].as_i64().context("no cost")?;
            if answer.complete() {
                let (fresh, cached, output) = stated(answer)?;
                ensure!(cost == in_zone(fresh * 2_500 + cached * 1_250 + output * 10_000), "{record}");
            }
            sold.insert(answer.call_id(), Some(cost));
        }
        audit(&scene.site).await?;
    }
    // What was found after each death is still what is there, and is all that was taken.
    let hub = scene.hub.consumer;
    let mut known = 0;
    for (id, cost) in &sold {
        let record = ours.record(hub, id).await?;
        ensure!(record.as_ref().and_then(|record| record["cost_nano_usd"].as_i64()) == *cost, "{id}: {record:?}");
        known += cost.unwrap_or_default();
    }
    let usage = ours.ask(hub, "usage").await?;
    let charged = usage["cost_nano_usd"].as_i64().context("no sum")?;
    // Of a call that was cut before its head the consumer has no id; the books have its cost.
    ensure!(charged >= known, "{usage}");
    ours.until_balance(hub, before - charged).await?;
    ensure!(written > 0 && unwritten > 0, "{written} were written and {unwritten} were not: not at the right moment");
    // Nothing is held any more: all that is left can be spent, and not more.
    let all = usize::try_from((before - charged) / HELD)?;
    crowd(&scene, &ours, "after", all + 1, all).await?;
    audit(&scene.site).await?;
    scene.site.json(&["doctor"]).await?;
    Ok(())
}
