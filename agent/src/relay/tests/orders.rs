//! Calls without a good ticket never reach the vendor, and the hub is told why.
//!
//! Invariant: every case changes one thing of an order that is served.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use http::HeaderMap;
use http::HeaderValue;
use http::header;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::metering::METER_RULES;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::ticket::Ticket;

use super::scene::QUESTION;
use super::scene::Scene;
use super::scene::hub_key;
use super::scene::refused;
use super::scene::seen;
use crate::config::Calls;

/// One thing of an order made another.
type Change = fn(&mut Ticket);

#[tokio::test]
async fn an_order_that_is_not_this_agents_is_refused_before_the_vendor_hears_of_it() {
    let scene = Scene::with(Calls { tier_min_ppm: 800_000, ..Calls::default() }).await;
    let changes: [(AbortReason, Change); 11] = [
        (AbortReason::TicketInvalid, |ticket| ticket.fleet = FleetId([9; 16])),
        (AbortReason::TicketInvalid, |ticket| ticket.signing_key = 1),
        (AbortReason::TicketInvalid, |ticket| ticket.agent = AgentId([9; 16])),
        (AbortReason::TicketInvalid, |ticket| ticket.call = CallId([9; 16])),
        (AbortReason::TicketInvalid, |ticket| ticket.vendor_key = VendorKeyId([9; 16])),
        (AbortReason::TicketInvalid, |ticket| ticket.endpoint = Endpoint::OpenAiEmbeddings.number()),
        (AbortReason::TicketInvalid, |ticket| ticket.attempt = 4),
        (AbortReason::PricesUnknown, |ticket| ticket.price_version = 8),
        (AbortReason::PricesUnknown, |ticket| ticket.price_hash = Hex([9; 32])),
        (AbortReason::RulesUnknown, |ticket| ticket.meter_rules = METER_RULES + 1),
        (AbortReason::TierTooLow, |ticket| ticket.tier = Ppm(799_999)),
    ];

    for (reason, change) in changes {
        let order = scene.ticket(Endpoint::OpenAiChat);
        let mut changed = order.clone();
        change(&mut changed);
        let call = ask(&scene, &order, Some(signed(changed)));
        assert_eq!(seen(&call).await, refused(reason));
    }
    served_first(&scene).await;
    assert!(scene.receipts.lock().await.try_recv().is_err(), "nothing is owed for what was refused");
}

#[tokio::test]
async fn an_order_that_was_forged_cut_or_left_out_is_refused_before_the_vendor_hears_of_it() {
    let scene = Scene::new().await;
    let order = scene.ticket(Endpoint::OpenAiChat);
    let honest = signed(order.clone());
    let dearer = Ticket { ceiling: NanoUsd(order.ceiling.0 + 1), ..order.clone() };
    let mut patched = signed(dearer).to_vec();
    let signature = honest.len() - 64;
    patched.splice(signature.., honest[signature..].iter().copied());
    let stranger = order.clone().sign(&SigningKey::from_bytes(&[66; 32]));

    for forged in [Bytes::copy_from_slice(stranger.bytes()), patched.into(), honest.slice(..honest.len() - 1)] {
        let call = ask(&scene, &order, Some(forged));
        assert_eq!(seen(&call).await, refused(AbortReason::TicketInvalid));
    }
    assert_eq!(seen(&ask(&scene, &order, None)).await, refused(AbortReason::TicketMissing));
    served_first(&scene).await;
}

#[tokio::test]
async fn an_attempt_is_served_once_and_what_was_refused_may_be_ordered_again() {
    let scene = Scene::new().await;
    let order = scene.ticket(Endpoint::OpenAiChat);
    let unknown = Ticket { price_version: 8, ..order.clone() };
    assert_eq!(seen(&ask(&scene, &order, Some(signed(unknown)))).await, refused(AbortReason::PricesUnknown));

    let call = ask(&scene, &order, Some(signed(order.clone())));
    let mut guest = scene.asked().await;
    guest.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    assert_eq!(seen(&call).await.status, Some(200));

    let again = ask(&scene, &order, Some(signed(order.clone())));
    assert_eq!(seen(&again).await, refused(AbortReason::TicketSeen), "replayed");
    let dearer = Ticket { ceiling: NanoUsd(5), ..order.clone() };
    let dearer = ask(&scene, &order, Some(signed(dearer)));
    assert_eq!(seen(&dearer).await, refused(AbortReason::TicketSeen), "another order of the same attempt");
}

#[tokio::test]
async fn a_call_is_served_only_as_the_model_that_it_was_sold_as() {
    let scene = Scene::new().await;
    let order = scene.ticket(Endpoint::OpenAiChat);
    let cheaper = Ticket { model: "gpt-5-nano".to_owned(), ..order.clone() };

    let call = ask(&scene, &order, Some(signed(cheaper)));
    let mut guest = scene.vendor.accept().await;
    let (answered, reached) = tokio::join!(seen(&call), guest.until_closed());

    // The model stands in the body: its last piece does not leave.
    assert_eq!(answered, refused(AbortReason::TicketInvalid));
    let reached = String::from_utf8(reached).unwrap();
    assert!(!reached.contains(&QUESTION[QUESTION.len() - 1..]), "{reached}");
    let realtime = scene.ticket(Endpoint::OpenAiRealtime);
    let cheaper = Ticket { model: "gpt-5".to_owned(), ..realtime.clone() };
    let query = Some("model=gpt-realtime");
    let session = scene.open_by(&realtime, query, HeaderMap::new(), BodyLength::Upgrade, Some(signed(cheaper)));
    assert_eq!(seen(&session).await, refused(AbortReason::TicketInvalid));
}

#[tokio::test]
async fn what_is_free_by_the_agents_own_table_needs_no_order_and_takes_none() {
    let scene = Scene::new().await;
    let free = Ticket { endpoint: Endpoint::OpenAiModels.number(), ..scene.ticket(Endpoint::OpenAiChat) };

    let ordered = scene.open_by(&free, None, HeaderMap::new(), BodyLength::None, Some(signed(free.clone())));
    assert_eq!(seen(&ordered).await, refused(AbortReason::TicketInvalid));
    // The list of models is the hub's to answer: that is why it is refused, and not for want of a ticket.
    let unordered = scene.open_by(&free, None, HeaderMap::new(), BodyLength::None, None);
    assert_eq!(seen(&unordered).await, refused(AbortReason::NotAllowed));
}

#[tokio::test]
async fn a_call_ends_when_its_order_has_run_out() {
    let scene = Scene::new().await;
    let order = Ticket { deadline_ms: 1, ..scene.ticket(Endpoint::OpenAiChat) };

    let call = ask(&scene, &order, Some(signed(order.clone())));

    assert_eq!(seen(&call).await, refused(AbortReason::Deadline));
}

/// The next call is served, and is the first that the vendor hears of.
async fn served_first(scene: &Scene) {
    let order = scene.ticket(Endpoint::OpenAiChat);
    let call = ask(scene, &order, Some(signed(order.clone())));
    let mut guest = scene.asked().await;
    guest.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    assert_eq!(seen(&call).await.status, Some(200));
    assert_eq!(scene.receipt().await.attempt, order.attempt);
}

fn ask(scene: &Scene, order: &Ticket, ticket: Option<Bytes>) -> LinkStream {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let call = scene.open_by(order, None, headers, BodyLength::Known(QUESTION.len() as u64), ticket);
    // One that was refused at once takes no body.
    let _ = call.send_last(Bytes::from_static(QUESTION.as_bytes()), Bytes::new());
    call
}

fn signed(ticket: Ticket) -> Bytes {
    Bytes::copy_from_slice(ticket.sign(&hub_key()).bytes())
}
