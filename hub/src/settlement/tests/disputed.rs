//! Amounts that an owner gives back, and those that the two sides do not agree on.
//!
//! Invariant: every test ends with an audit of the whole ledger.

use keyhaven_protocol::settle::SUSPENSE_MS;

use super::leaf_writer::LeafWriter;
use super::*;
use crate::store::amnesia::ForkRow;
use crate::store::reconcile_chains::ChainDifference;

on_every_engine![
    books_and_chains_are_compared_and_every_difference_is_told_with_both_figures,
    an_owner_is_paid_once_what_has_waited_and_no_more,
    an_agent_with_two_histories_is_not_paid,
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

async fn an_owner_is_paid_once_what_has_waited_and_no_more(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let books = scene.books().await;
    let mut agent = LeafWriter::new(books.boot());
    scene.agent(&agent).await;
    for (n, says) in [(1, 1000), (2, 400)] {
        scene.sell(&books, n, 1000).await;
        agent.serve(call(n), 1, says);
    }
    agent.commit(&books).await;
    let (now, wait) = (unix_ms_now() + 1000, 1_000_000);
    let pay = async |reference: &str, at| pay_out(&scene.store, reference, wait, at, true).await;

    assert!(matches!(pay("early", now).await, Err(PayoutError::NothingDue)), "72 hours, or what is set");
    assert!(matches!(pay(" ", now).await, Err(PayoutError::Reference)));
    let planned = pay_out(&scene.store, "2026-11", wait, now + wait, false).await.unwrap();
    assert_eq!((planned.len(), planned[0].amount), (1, NanoUsd(500 + 200)));
    assert_eq!(scene.store.payouts_to(AGENT).await.unwrap(), [], "only said");
    let made = pay("2026-11", now + wait).await.unwrap();
    let again = pay("2026-11", now + 2 * wait).await.unwrap();
    assert_eq!(made, again);
    assert_eq!(made[0].leaves, agent.chain.head().size);
    assert!(matches!(pay("2026-12", now + wait).await, Err(PayoutError::NothingDue)));
    // What is given back later is taken from what is earned later.
    let close = scene.store.leaf_hash(AGENT, 0, 2).await.unwrap().unwrap();
    agent.adjust(call(1), 1, close, 800);
    scene.sell(&books, 3, 1000).await;
    agent.serve(call(3), 1, 1000);
    agent.commit(&books).await;
    let next = pay("2027-01", now + 2 * wait).await.unwrap();

    assert_eq!(next[0].amount, NanoUsd(500 - 100));
    assert_eq!(scene.store.balance(Side::Owner(AGENT)).await.unwrap(), NanoUsd(0));
    assert_eq!(scene.store.balance(Side::Payouts).await.unwrap(), NanoUsd(700 + 400));
    // The owner notes what came; another amount is not what was paid.
    let noted = |amount| keyhaven_protocol::leaf::Payout {
        payout: made[0].id,
        leaves_before: made[0].leaves,
        amount: NanoUsd(amount),
        method: "csv".to_owned(),
        reference: "transfer 1".to_owned(),
    };
    for amount in [700, 701] {
        agent.append(keyhaven_protocol::leaf::Event::Payout(noted(amount)));
    }
    agent.commit(&books).await;
    assert_eq!(agent.reasons()[8..], ["noted", "refused"]);
    scene.audit().await;
}

async fn an_agent_with_two_histories_is_not_paid(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let books = scene.books().await;
    let mut agent = LeafWriter::new(books.boot());
    scene.agent(&agent).await;
    scene.sell(&books, 1, 1000).await;
    agent.serve(call(1), 1, 1000);
    agent.commit(&books).await;
    let fork = ForkRow { agent: AGENT, epoch: 0, at_leaf: 1, proof: "{}".to_owned(), noted_unix_ms: 1 };
    let mut batch = scene.store.begin_batch(None, 1).await.unwrap();
    assert!(batch.keep_fork_proof(&fork).await.unwrap());
    batch.commit(None, 1).await.unwrap();

    let paid = pay_out(&scene.store, "2026-11", 0, unix_ms_now() + 1000, true).await;

    assert!(matches!(paid, Err(PayoutError::NothingDue)), "{paid:?}");
    scene.audit().await;
}

async fn books_and_chains_are_compared_and_every_difference_is_told_with_both_figures(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let books = scene.books().await;
    let mut agent = LeafWriter::new(books.boot());
    for (n, says) in [(1, Some(1000)), (2, Some(400)), (3, None)] {
        scene.sell(&books, n, 1000).await;
        if let Some(says) = says {
            agent.serve(call(n), 1, says);
        }
    }
    agent.serve(call(4), 1, 70);
    agent.commit(&books).await;

    let done = scene.store.reconcile_chains(unix_ms_now()).await.unwrap();

    assert_eq!((done.chains, done.leaves, done.credited, done.waiting, done.broken), (1, 7, 3, 0, 0));
    let told: Vec<_> = done
        .findings
        .iter()
        .map(|found| (found.what, found.which.clone(), found.class.as_str(), found.hub_nano_usd, found.agent_nano_usd))
        .collect();
    assert_eq!(
        told,
        [
            (ChainDifference::Missing, call(3).to_string(), "no_leaf", Some(1000), None),
            (ChainDifference::Extra, call(4).to_string(), "unobserved", None, Some(70)),
            (ChainDifference::Differing, call(2).to_string(), "agent_below", Some(1000), Some(400)),
        ]
    );
    assert_eq!((done.missing, done.extra, done.differing), (1, 1, 1));
    scene.store.put_reconciled_chains(&done).await.unwrap();
    assert_eq!(scene.store.reconciled_chains().await.unwrap(), Some(done));
    // A leaf is gone, as only a fault of the database can have it.
    scene.store.raw("DELETE FROM leaves WHERE number = 6").await;
    let broken = scene.store.reconcile_chains(unix_ms_now()).await.unwrap();
    assert_eq!((broken.broken, broken.findings[3].which.as_str()), (1, "epoch 0: 6 leaves of 7"));
}
