//! An agent that says it metered something else than it did: more, less, nothing, another call,
//! more than the call may cost.
//!
//! Invariant: what the consumer pays is the hub's own figure, whatever the agent says, and the
//! owner gets nothing for a figure that is in no leaf.

use crate::fake_agent::Fake;
use crate::fake_agent::MODEL;
use crate::fake_agent::frame;
use crate::fake_agent::response;
use crate::scene::Scene;
use crate::sold::in_zone;
use anyhow::Context;
use anyhow::Result;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::frame::Receipt;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::metering::Outcome;
use keyhaven_protocol::metering::Rule;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::ticket::SignedTicket;
use keyhaven_protocol::usage::Doubts;
use keyhaven_protocol::usage::Meter;
use keyhaven_protocol::usage::Meters;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::consumer::get;
use keyhaven_tests::customer::Customer;
use keyhaven_tests::customer::audit;
use keyhaven_tests::raw_agent::RawLink;
use serde_json::Value;
use serde_json::json;
use tokio::task::JoinSet;

/// What the fake's every answer uses, and what that costs at the kit's prices.
const ANSWER: &str = r#"{"id":"x","object":"chat.completion","model":"fake-model","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110}}"#;
const LIST: i64 = 100 * 2_500 + 10 * 10_000;

/// One way to lie, and what becomes of it.
struct Lie {
    case: &'static str,
    /// What is said, given the truth.
    says: fn(Receipt) -> Vec<Receipt>,
    verdict: &'static str,
    /// Whether it is taken for a word about this attempt.
    is_heard: bool,
}

const LIES: [Lie; 13] = [
    Lie { case: "truth", says: |truth| vec![truth], verdict: "agreed", is_heard: true },
    Lie { case: "more", says: |truth| vec![costs(truth, LIST + 1)], verdict: "agent_above", is_heard: true },
    Lie { case: "ten-times", says: |truth| vec![costs(truth, LIST * 10)], verdict: "agent_above", is_heard: true },
    Lie {
        case: "beyond-the-ceiling",
        says: |truth| vec![costs(truth, i64::MAX)],
        verdict: "agent_above",
        is_heard: true,
    },
    // It says that more came than did: nobody is at fault, and nobody gains.
    Lie {
        case: "more-bytes",
        says: |truth| vec![Receipt { response_bytes: truth.response_bytes + 1, ..costs(truth, LIST * 2) }],
        verdict: "short",
        is_heard: true,
    },
    Lie { case: "less", says: |truth| vec![costs(truth, LIST - 1)], verdict: "agent_below", is_heard: true },
    Lie { case: "half", says: |truth| vec![costs(truth, LIST / 2)], verdict: "agent_below", is_heard: true },
    Lie { case: "nothing", says: |truth| vec![costs(truth, 0)], verdict: "agent_below", is_heard: true },
    // The answer itself says otherwise.
    Lie {
        case: "never-sent",
        says: |truth| vec![Receipt { outcome: Outcome::NotSent, rule: Rule::Nothing, ..costs(truth, 0) }],
        verdict: "agent_below",
        is_heard: true,
    },
    Lie { case: "silence", says: |_| Vec::new(), verdict: "open", is_heard: false },
    Lie {
        case: "another-call",
        says: |truth| vec![Receipt { call: CallId([7; 16]), ..truth }],
        verdict: "open",
        is_heard: false,
    },
    Lie {
        case: "another-attempt",
        says: |truth| vec![Receipt { attempt: 2, ..truth }],
        verdict: "open",
        is_heard: false,
    },
    Lie {
        case: "second-thoughts",
        says: |truth| vec![truth.clone(), costs(truth, LIST * 10)],
        verdict: "agreed",
        is_heard: true,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_an_agent_says_it_metered_the_consumer_pays_what_the_hub_saw() -> Result<()> {
    let scene = Scene::build().await?;
    let (site, hub) = (&scene.site, scene.hub.consumer);
    let before = 1_000_000_000;
    let ours = Customer::create(site, "ours", before, &[]).await?;
    let fake = Fake::join(&scene, "liar").await?;
    let mut lying = JoinSet::new();
    lying.spawn(lie(fake.link().await?));

    for told in &LIES {
        let chat = Chat { model: MODEL.to_owned(), case: told.case.to_owned(), ..Chat::new(&ours.key) };
        let answer = chat.ask(hub).await?;
        assert_eq!((answer.status(), answer.text().as_str()), (200, ANSWER), "{}", told.case);
        let record = ours.record(hub, &answer.call_id()).await?.context("no record")?;

        let about = format!("{}: {record}", told.case);
        assert_eq!(record["agreement"], told.verdict, "{about}");
        assert_eq!(record["list_nano_usd"], LIST, "{about}");
        assert_eq!(record["hub_metered"]["list_nano_usd"], LIST, "{about}");
        assert_eq!(record["cost_nano_usd"], in_zone(LIST), "{about}");
        assert_eq!(record["outcome"], "complete", "{about}");
        assert_eq!(record["agent_metered"].is_null(), !told.is_heard, "{about}");
        // Written a moment after it is told.
        keyhaven_tests::daemons::eventually("a written record", || async {
            let written = ours.ask(hub, "usage").await?["calls"].as_u64();
            let done = LIES.iter().position(|lie| lie.case == told.case).map(|place| place as u64 + 1);
            Ok((written == done).then_some(()))
        })
        .await?;
        let shown = site.json(&["call", "show", &answer.call_id()]).await?;
        assert_eq!(shown["settled"], charged(told), "{}: {shown}", told.case);
    }
    let calls = i64::try_from(LIES.len())?;
    ours.until_balance(hub, before - calls * in_zone(LIST)).await?;
    audit(site).await?;
    let metrics = get(scene.hub.admin, "/metrics").await?.text();
    for (verdict, count) in [("agent_above", 3), ("agent_below", 4)] {
        for line in [
            format!("keyhaven_agent_gateway_link_disputes_total{{agent=\"liar\",verdict=\"{verdict}\"}} {count}"),
            format!("keyhaven_agent_gateway_link_disputes_total{{agent=\"good\",verdict=\"{verdict}\"}} 0"),
            format!("keyhaven_settlement_calls_total{{verdict=\"{verdict}\"}} {count}"),
        ] {
            assert!(metrics.lines().any(|there| there == line), "{line} in\n{metrics}");
        }
    }
    assert!(lying.try_join_next().is_none(), "the liar's link is still up");
    assert!(scene.hub.process.stderr().contains("metered call"), "the operator is told");
    scene.unharmed().await
}

/// Who pays what, as docs/BOOKS.md says: by the hub's figure alone. The owner is credited by a leaf,
/// and this agent writes none.
fn charged(told: &Lie) -> Value {
    let (charge, owed) = (in_zone(LIST), LIST * 8 / 10);
    json!({
        "charge": charge,
        "credit": 0,
        "open": owed,
        "suspense": 0,
        "margin": charge - owed,
        "verdict": told.verdict,
    })
}

/// Answers every call properly, and lies about it as its case says.
async fn lie(mut link: RawLink) -> Result<()> {
    loop {
        let open = link.frame_of_call().await?.context("the hub closed the liar's link")?;
        if open.kind != FrameKind::Open.number() {
            continue;
        }
        let (stream, head) = (open.stream, OpenHead::decode(open.payload)?);
        let case = head.headers.get("x-kit-case").context("no case")?.to_str()?;
        let told = LIES.iter().find(|lie| lie.case == case).context("no such lie")?;
        let json = [("content-type", "application/json")];
        link.send(frame(FrameKind::Head, stream, &response(200, &json))).await?;
        link.send(frame(FrameKind::Data, stream, ANSWER.as_bytes())).await?;
        for receipt in (told.says)(truth(&head)?) {
            link.send_frame(FrameKind::Receipt, 0, &receipt.encode()?).await?;
        }
        link.send(frame(FrameKind::End, stream, b"")).await?;
    }
}

/// What an honest agent would say.
fn truth(head: &OpenHead) -> Result<Receipt> {
    let order = SignedTicket::read(head.ticket.as_deref().context("the call is free")?)?;
    let ticket = order.ticket();
    let mut meters = Meters::default();
    meters.set(Meter::Input, 100);
    meters.set(Meter::Output, 10);
    Ok(Receipt {
        call: head.call,
        attempt: ticket.attempt,
        price_version: ticket.price_version,
        outcome: Outcome::Complete,
        rule: Rule::Stated,
        doubts: Doubts::from_bits(0),
        list: NanoUsd(LIST),
        response_bytes: ANSWER.len() as u64,
        elapsed_ms: 0,
        tier: ServiceTier::Standard,
        meters,
        model: Some(MODEL.to_owned()),
        heard: Meters::default(),
        heard_model: None,
    })
}

fn costs(truth: Receipt, nano_usd: i64) -> Receipt {
    Receipt { list: NanoUsd(nano_usd), ..truth }
}
