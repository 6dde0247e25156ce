//! An agent's leaves over a real link into a real hub's books, and the books' word back.
//!
//! Invariant: what a leaf is credited is on record for owner and operator, and said once.

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_protocol::chain::Chain;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::chain::Group;
use keyhaven_protocol::frame::Ack;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::Need;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::leaf::Close;
use keyhaven_protocol::leaf::EpochReason;
use keyhaven_protocol::leaf::EpochStart;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Metered;
use keyhaven_protocol::leaf::Purpose;
use keyhaven_protocol::metering::Outcome;
use keyhaven_protocol::metering::Rule;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::statement::Cosigned;
use keyhaven_protocol::statement::Reason;
use keyhaven_protocol::statement::Statement;
use keyhaven_protocol::ticket::SignedTicket;
use keyhaven_protocol::usage::Doubts;
use keyhaven_protocol::usage::Meter;
use keyhaven_protocol::usage::Meters;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::customer::Customer;
use keyhaven_tests::customer::audit;
use keyhaven_tests::raw_agent::RawLink;

use crate::fake_agent::Fake;
use crate::fake_agent::MODEL;
use crate::fake_agent::frame;
use crate::fake_agent::response;
use crate::scene::Scene;

/// What every answer uses, and what that costs at the kit's prices.
const ANSWER: &str = r#"{"id":"x","object":"chat.completion","model":"fake-model","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110}}"#;
const LIST: i64 = 100 * 2_500 + 10 * 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_that_comes_over_a_link_is_credited_stated_and_shown() -> Result<()> {
    let scene = Scene::build().await?;
    let (site, hub) = (&scene.site, scene.hub.consumer);
    let ours = Customer::create(site, "ours", 1_000_000_000, &[]).await?;
    let fake = Fake::join(&scene, "writer").await?;
    let mut link = fake.link().await?;
    let chat = Chat { model: MODEL.to_owned(), case: "leaf".to_owned(), ..Chat::new(&ours.key) };

    let (answer, served) = tokio::join!(chat.ask(hub), serve(&mut link, &fake));

    let (answer, groups) = (answer?, served?);
    ensure!((answer.status(), answer.text().as_str()) == (200, ANSWER), "{}", answer.text());
    let record = ours.record(hub, &answer.call_id()).await?.context("no record")?;
    ensure!(record["agreement"] == "agreed" && record["agent_metered"]["list_nano_usd"] == LIST, "{record}");
    // EPOCH, OPEN and CLOSE; the last one may wait for the call's end.
    let mut lines = Vec::new();
    let mut next = 0;
    while lines.len() < 3 || lines.last() == Some(&Reason::Open) {
        let ack = Ack::decode(&until(&mut link, FrameKind::Ack).await?.payload)?;
        let statement = Statement::decode(&ack.statement)?;
        ensure!(Cosigned::decode(&ack.cosigned)?.head.size == ack.next, "the head is of what is acknowledged");
        lines.extend(statement.lines.iter().map(|line| line.reason));
        if let Some(earlier) = statement.earlier.last() {
            lines.pop();
            lines.push(earlier.line.reason);
        }
        next = ack.next;
    }
    ensure!((next, &lines[..]) == (3, &[Reason::Noted, Reason::Noted, Reason::Agreed][..]), "{next} {lines:?}");
    let statement = site.json(&["owner", "statement", "--agent", "writer"]).await?;
    ensure!(statement["balance_nano_usd"] == LIST * 8 / 10, "{statement}");
    ensure!(statement["movements"][0]["call"] == answer.call_id(), "{statement}");
    ensure!(site.json(&["dispute", "list"]).await?.as_array().is_none_or(Vec::is_empty));
    // Again: acknowledged again, and nothing moves. Beyond a gap: asked for.
    link.send_frame(FrameKind::Claim, 0, &groups[0].encode()).await?;
    let again = Ack::decode(&until(&mut link, FrameKind::Ack).await?.payload)?;
    ensure!(again.next == 3, "{}", again.next);
    link.send_frame(FrameKind::Claim, 0, &groups[1].encode()).await?;
    let need = Need::decode(&until(&mut link, FrameKind::Need).await?.payload)?;
    ensure!(need.next == 3, "{}", need.next);
    link.send_frame(FrameKind::Claim, 0, b"no group").await?;
    link.until_closed().await?;
    let unchanged = site.json(&["owner", "statement", "--agent", "writer"]).await?;
    ensure!(unchanged == statement, "{unchanged}");
    // Its own words are kept: who comes without a ledger now is an older copy of itself.
    let (_, verdict) = fake.agent.prove(scene.hub.tunnel, false).await?;
    ensure!(verdict == keyhaven_tests::raw_agent::Verdict::Refused("KH-E1010".to_owned()), "{verdict:?}");
    audit(site).await?;
    scene.unharmed().await
}

/// Serves one call, with its leaves before its end. Returns the group, and one that no one has before it.
async fn serve(link: &mut RawLink, fake: &Fake) -> Result<[Group; 2]> {
    let open = until(link, FrameKind::Open).await?;
    let ticket = SignedTicket::read(&OpenHead::decode(open.payload)?.ticket.context("no ticket")?)?;
    let (fleet, agent, key) = (fake.agent.token.fleet, fake.agent.token.agent, &fake.agent.key);
    let id = ChainId { fleet, purpose: Purpose::Calls, agent, epoch: 0 };
    let mut chain = Chain::new(id);
    let public = Hex(key.verifying_key().to_bytes());
    let (purpose, reason) = (Purpose::Calls, EpochReason::First);
    let close = Close {
        call: ticket.ticket().call,
        attempt: ticket.ticket().attempt,
        ticket: ticket.hash(),
        status: Some(200),
        vendor_ended: true,
        metered: Some(metered()),
        request_bytes: 100,
        vendor_bytes: ANSWER.len() as u64,
        request_digest: None,
        response_digest: None,
        vendor_request: None,
        lasted_ms: 3,
    };
    let start = EpochStart { fleet, purpose, key: public, reason, previous: None };
    let events = [Event::Epoch(start), Event::Open(ticket), Event::Close(close)];
    let leaves = events.into_iter().map(|event| chain.append(1, event)).collect::<Result<Vec<_>, _>>()?;
    let group = Group::sign(&id, key, leaves, chain.head())?;
    chain.append(1, chain.rotation(key))?;
    let lost = chain.rotation(key);
    let leaf = chain.append(1, lost)?;
    let beyond = Group::sign(&id, key, vec![leaf], chain.head())?;
    let json = [("content-type", "application/json")];
    link.send(frame(FrameKind::Head, open.stream, &response(200, &json))).await?;
    link.send(frame(FrameKind::Data, open.stream, ANSWER.as_bytes())).await?;
    link.send_frame(FrameKind::Claim, 0, &group.encode()).await?;
    link.send(frame(FrameKind::End, open.stream, b"")).await?;
    Ok([group, beyond])
}

/// The next frame of this kind.
async fn until(link: &mut RawLink, kind: FrameKind) -> Result<Frame> {
    loop {
        let frame = link.frame_of_call().await?.context("the hub closed the link")?;
        if frame.kind == kind.number() {
            return Ok(frame);
        }
    }
}

fn metered() -> Metered {
    let mut meters = Meters::default();
    meters.set(Meter::Input, 100);
    meters.set(Meter::Output, 10);
    Metered {
        outcome: Outcome::Complete,
        rule: Rule::Stated,
        doubts: Doubts::default(),
        tier: ServiceTier::Standard,
        model: Some(MODEL.to_owned()),
        meters,
        heard_model: None,
        heard: Meters::default(),
        list: NanoUsd(LIST),
        response_bytes: ANSWER.len() as u64,
        elapsed_ms: 0,
    }
}
