//! Amounts that an owner gives back, and those that the two sides do not agree on.
//!
//! Invariant: every test ends with an audit of the whole ledger.

use keyhaven_protocol::settle::SUSPENSE_MS;

use super::leaf_writer::LeafWriter;
use super::*;

on_every_engine![
    an_owner_may_take_less_before_and_after_the_credit,
    what_is_disputed_goes_back_after_thirty_days_and_never_to_the_hub,
    a_dispute_is_resolved_once_for_one_of_the_two,
];

async fn an_owner_may_take_less_before_and_after_the_credit(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let books = scene.books().await;
    scene.sell(&books, 1, 1000).await;
    let mut agent = LeafWriter::new(books.boot());
    agent.open(call(1), 1);
    let close = agent.close(call(1), 1, Some(1000));
    agent.commit(&books).await;
    let first = agent.adjust(call(1), 1, close, 600);
    agent.adjust(call(1), 1, close, 500); // Of a leaf that stands no more.
    agent.adjust(call(1), 1, first, 200);
    agent.commit(&books).await;
    // Of a call that has not ended.
    let hold = scene.dispatched(&books, 2).await;
    agent.open(call(2), 1);
    let close = agent.close(call(2), 1, Some(1000));
    agent.adjust(call(2), 1, close, 400);
    agent.sign();
    let mut answers = agent.link(&books).await;
    agent.hear_out(&books, &mut answers).await;
    books.settle(hold, record(2, NanoUsd(1000)));
    agent.hear(&books, &mut answers).await;

    let expected = ["noted", "noted", "agreed", "lowered", "refused", "lowered", "noted", "agent_below", "lowered"];
    assert_eq!(agent.reasons(), expected);
    assert_eq!(scene.balances().await, [8000, 0, 100 + 200, 800 + 600, 100 + 200], "by 200 and by 400");
    assert_eq!(scene.store.lowerings_by(AGENT).await.unwrap().len(), 2);
    assert_eq!(scene.store.disputes(false).await.unwrap().len(), 3);
    scene.audit().await;
}

async fn what_is_disputed_goes_back_after_thirty_days_and_never_to_the_hub(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let books = scene.books().await;
    let mut agent = LeafWriter::new(books.boot());
    for (n, says) in [(1, 400), (2, 1000)] {
        scene.sell(&books, n, 1000).await;
        agent.serve(call(n), 1, says);
    }
    agent.commit(&books).await;
    let margin = scene.balances().await[4];
    let [dispute] = &scene.store.disputes(false).await.unwrap()[..] else { panic!("one") };
    assert_eq!((dispute.call, dispute.amount, dispute.account), (call(1), NanoUsd(600), ACCOUNT));
    let due = dispute.since_unix_ms + SUSPENSE_MS;

    books.shared.return_disputed(due - 1).await.unwrap();
    assert_eq!(scene.balances().await[3], 600);
    for _ in 0..2 {
        books.shared.return_disputed(due).await.unwrap();
    }

    assert_eq!(scene.balances().await, [8600, 0, 700, 0, margin]);
    let [ended] = &scene.store.disputes(true).await.unwrap()[..] else { panic!("one") };
    assert_eq!(ended.ended, Some(("returned".to_owned(), due)));
    scene.audit().await;
}

async fn a_dispute_is_resolved_once_for_one_of_the_two(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let books = scene.books().await;
    let mut agent = LeafWriter::new(books.boot());
    for n in [1, 2] {
        scene.sell(&books, n, 1000).await;
        agent.serve(call(n), 1, 400);
    }
    agent.commit(&books).await;

    let note = "the vendor's invoice says so";
    assert_eq!(resolve(&scene.store, call(1), Winner::Owner, note, NOW).await.unwrap(), NanoUsd(600));
    assert_eq!(resolve(&scene.store, call(2), Winner::Consumer, note, NOW).await.unwrap(), NanoUsd(600));
    for call in [call(1), call(2), call(3)] {
        let again = resolve(&scene.store, call, Winner::Consumer, note, NOW).await;
        assert!(matches!(again, Err(ResolveError::NotDisputed(_))), "{again:?}");
    }
    let wordless = resolve(&scene.store, call(1), Winner::Consumer, " ", NOW).await;
    assert!(matches!(wordless, Err(ResolveError::Note)));
    books.shared.return_disputed(u64::MAX / 2).await.unwrap();

    assert_eq!(scene.balances().await, [8600, 0, 400 + 600, 0, 400]);
    scene.audit().await;
}
