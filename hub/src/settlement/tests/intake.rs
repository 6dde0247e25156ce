//! Leaves come into the books in every order, once, and what they move is what both sides saw.
//!
//! Invariant: every test ends with an audit of the whole ledger.

use keyhaven_protocol::id::BootId;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::statement::Cosigned;
use keyhaven_protocol::ticket::Ticket;

use super::super::writer::CrashPoint;
use super::leaf_writer::CEILING;
use super::leaf_writer::LeafWriter;
use super::*;
use crate::store::accounts::Account;
use crate::store::amnesia::AmnesiaCause;

on_every_engine![
    a_leaf_is_credited_by_both_figures_whichever_comes_first,
    a_group_that_comes_again_is_answered_again_and_moves_nothing,
    every_step_of_a_batch_may_be_the_last_and_each_ends_the_same,
    another_history_is_refused_named_and_proved,
    an_attempt_is_credited_once_whatever_is_claimed_for_it,
    a_leaf_of_a_withdrawn_attempt_and_of_an_other_attempt_earns_nothing,
    a_call_that_another_process_serves_waits_for_it_and_one_that_died_is_settled_by_what_was_seen,
    what_a_hub_forgot_is_believed_and_its_payer_owes_it_and_is_blocked,
    without_a_record_of_forgetting_what_nobody_saw_earns_nothing,
    a_budget_for_what_nobody_saw_is_by_agent_and_day_and_pays_whole_attempts,
    a_database_that_went_back_in_time_is_proved_by_a_head_that_it_cosigned,
    leaves_that_may_not_say_what_they_say_are_refused_and_hold_nothing_up,
    a_late_second_line_and_missed_statements_reach_an_agent_that_comes_back,
    an_older_copy_and_another_history_are_told_by_where_they_stand,
];

/// Charge 1000 at list prices; the owner's tier is a half.
async fn a_leaf_is_credited_by_both_figures_whichever_comes_first(home: Home) {
    let rows = [(1000, 500, 0, "agreed"), (1200, 500, 0, "agent_above"), (400, 200, 600, "agent_below")];
    for leaf_first in [false, true] {
        let home = home.another().await;
        let scene = Scene::open(&home).await;
        scene.deposit(10_000).await;
        let books = scene.books().await;
        let mut agent = LeafWriter::new(books.boot());
        let (mut owner, mut suspense) = (0, 0);
        for (n, (says, credit, disputed, reason)) in (1..).zip(rows) {
            let hold = scene.dispatched(&books, n).await;
            agent.serve(call(n), 1, says);
            if leaf_first {
                agent.sign();
                let mut answers = agent.link(&books).await;
                agent.hear_out(&books, &mut answers).await;
                assert_eq!(agent.reasons().last(), Some(&"open"));
                books.settle(hold, record(n, NanoUsd(1000)));
                agent.hear(&books, &mut answers).await;
            } else {
                books.settle(hold, record(n, NanoUsd(1000)));
                scene.until(async || scene.is_over(n).await).await;
                agent.commit(&books).await;
            }
            assert_eq!(agent.reasons().last(), Some(&reason), "{leaf_first}");
            owner += credit;
            suspense += disputed;
        }

        assert_eq!(agent.credited(), owner);
        assert!(agent.stated.open.is_empty());
        assert_eq!(scene.balances().await, [10_000 - 3000, 0, owner, suspense, 3000 - owner - suspense]);
        scene.audit().await;
        scene.stop().await;
    }
}

async fn a_group_that_comes_again_is_answered_again_and_moves_nothing(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let books = scene.books().await;
    let mut agent = LeafWriter::new(books.boot());
    scene.sell(&books, 1, 1000).await;
    agent.serve(call(1), 1, 1000);
    agent.commit(&books).await;
    let balances = scene.balances().await;
    let chain = scene.store.chain(AGENT, 0).await.unwrap().unwrap();

    // From its first leaf on, as if the agent had heard nothing.
    let mut answers = books.listen(AGENT, 0);
    let fresh = LeafWriter::new(books.boot());
    let mut reader = super::super::ChainReader::new(
        fresh.chain.id(),
        Head::EMPTY,
        ed25519_dalek::VerifyingKey::from_bytes(&fresh.public_key()).unwrap(),
        BookKeys::samples().list,
    );
    for group in &agent.groups {
        let Read::Next(group) = reader.read(group.clone()).unwrap() else { panic!("it is the next") };
        books.take_in(*group).await;
    }
    let answer = answers.next().await.unwrap();

    let Answer::Committed { next, number, cosigned, .. } = answer else { panic!("an ACK") };
    assert_eq!((next, number + 1), (chain.head.size, chain.statements));
    assert_eq!(cosigned, agent.cosigned, "the same head gives the same signature");
    assert_eq!(scene.balances().await, balances);
    assert_eq!(scene.store.chain(AGENT, 0).await.unwrap().unwrap(), chain);
    scene.audit().await;
}

async fn every_step_of_a_batch_may_be_the_last_and_each_ends_the_same(home: Home) {
    for crash in CrashPoint::ALL {
        let home = home.another().await;
        let scene = Scene::open(&home).await;
        scene.deposit(10_000).await;
        let doomed = scene.books_that_end_at(crash).await;
        let mut agent = LeafWriter::new(doomed.boot());
        let call = call_at(unix_ms_now(), 1);
        let sale = Sale { call, ..sale(1) };
        let mut hold = doomed.hold(call, &payer(), NanoUsd(2000), NOW).await.unwrap();
        hold.dispatched(sale.clone());
        agent.serve(call, 1, 1000);
        agent.sign();
        let seen = metering(NanoUsd(1000));
        doomed.settle(hold, CallRecord::settled(sale, 200, NOW, seen, None).unwrap());
        let answers = agent.link(&doomed).await;
        scene.until(async || doomed.shared.lock().is_closed).await;
        drop((answers, doomed));

        let books = scene.books().await;
        let mut answers = agent.link(&books).await;
        for missed in books.statements(AGENT, 0, 0).await.unwrap() {
            agent.take(&missed);
        }
        agent.hear_out(&books, &mut answers).await;

        // Written or forgotten, the consumer pays once and the owner earns it once: what the dead
        // process had not committed, its record of forgetting makes up for.
        assert_eq!(scene.balances().await, [9000, 0, 500, 0, 500], "{crash:?}");
        assert_eq!(agent.credited(), 500, "{crash:?}");
        let chain = scene.store.chain(AGENT, 0).await.unwrap().unwrap();
        let cosigned = Cosigned::decode(&chain.cosigned).unwrap();
        assert_eq!((cosigned.head, chain.head), (agent.chain.head(), agent.chain.head()), "{crash:?}");
        assert_eq!(chain.statements, agent.stated.statements);
        scene.audit().await;
        scene.stop().await;
    }
}

async fn another_history_is_refused_named_and_proved(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let books = scene.books().await;
    let mut agent = LeafWriter::new(books.boot());
    agent.commit(&books).await;
    let mut twin = agent.clone();
    for n in [1, 2] {
        scene.sell(&books, n, 1000).await;
    }
    agent.serve(call(1), 1, 1000);
    agent.commit(&books).await;
    let (balances, chain) = (scene.balances().await, scene.store.chain(AGENT, 0).await.unwrap());
    twin.serve(call(2), 1, 1000);
    twin.serve(call(3), 1, 1000);
    let group = twin.sign();

    let Greeted::Welcome { reader, .. } = agent.greet(&books).await else { panic!("it is welcome") };
    let Some(Read::Fork(fork)) = reader.other_history(group) else { panic!("another history") };
    let mut answers = books.listen(AGENT, 0);
    books.take_fork(*fork).await;

    assert_eq!(answers.next().await, Some(Answer::Forked));
    assert!(matches!(twin.greet(&books).await, Greeted::Fork | Greeted::Welcome { .. }));
    let [kept] = &scene.store.fork_proofs().await.unwrap()[..] else { panic!("one proof") };
    assert_eq!((kept.agent, kept.epoch, kept.at_leaf), (AGENT, 0, 2), "they part after EPOCH and one leaf");
    let proof: serde_json::Value = serde_json::from_str(&kept.proof).unwrap();
    assert_eq!(proof["branches"].as_array().unwrap().len(), 2);
    assert_eq!(scene.store.chain(AGENT, 0).await.unwrap(), chain, "nothing of it is in the books");
    assert_eq!(scene.balances().await, balances);
    scene.audit().await;
}

async fn an_attempt_is_credited_once_whatever_is_claimed_for_it(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let books = scene.books().await;
    scene.sell(&books, 1, 1000).await;
    let mut agent = LeafWriter::new(books.boot());
    agent.serve(call(1), 1, 1000);
    // Again in the same chain, opened and closed, and then in a second epoch.
    agent.serve(call(1), 1, 900);
    agent.commit(&books).await;
    let mut restored = LeafWriter::of(AGENT, 1, books.boot());
    restored.serve(call(1), 1, 1000);
    restored.commit(&books).await;

    assert_eq!(agent.reasons(), ["noted", "noted", "agreed", "refused", "refused"]);
    assert_eq!(restored.reasons(), ["noted", "noted", "refused"]);
    assert_eq!(scene.balances().await, [9000, 0, 500, 0, 500]);
    scene.audit().await;
}

async fn a_leaf_of_a_withdrawn_attempt_and_of_an_other_attempt_earns_nothing(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let books = scene.books().await;
    let mut agent = LeafWriter::new(books.boot());
    // The first attempt at call 1 was this agent's, and refused; the second one was served.
    let mut hold = books.hold(call(1), &payer(), NanoUsd(2000), NOW).await.unwrap();
    hold.dispatched(sale(1));
    agent.serve(call(1), 1, 700);
    agent.sign();
    let mut answers = agent.link(&books).await;
    agent.hear_out(&books, &mut answers).await;
    assert_eq!(agent.reasons(), ["noted", "noted", "open"]);
    hold.withdrawn();
    hold.dispatched(Sale { attempt: 2, agent: AgentId([77; 16]), ..sale(1) });
    let second = Sale { attempt: 2, agent: AgentId([77; 16]), ..sale(1) };
    let seen = metering(NanoUsd(1000));
    books.settle(hold, CallRecord::settled(second, 200, NOW, seen, None).unwrap());
    agent.hear(&books, &mut answers).await;
    // Nobody served call 2 after all.
    let mut hold = books.hold(call(2), &payer(), NanoUsd(2000), NOW).await.unwrap();
    hold.dispatched(sale(2));
    agent.serve(call(2), 1, 700);
    agent.sign();
    drop(answers);
    let mut answers = agent.link(&books).await;
    agent.hear_out(&books, &mut answers).await;
    hold.withdrawn();
    drop(hold);
    agent.hear(&books, &mut answers).await;

    assert_eq!(agent.reasons(), ["noted", "noted", "unobserved", "noted", "unobserved"]);
    assert_eq!(scene.balances().await, [9000, 500, 0, 0, 500], "owed to the other agent");
    scene.audit().await;
}

async fn a_call_that_another_process_serves_waits_for_it_and_one_that_died_is_settled_by_what_was_seen(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let other = scene.crashing_books().await;
    let seen = scene.dispatched(&other, 1).await;
    seen.observed(NanoUsd(300));
    scene.until(async || scene.is_under_way(1).await).await;
    let books = scene.books_beside().await;
    let mut agent = LeafWriter::new(other.boot());
    agent.serve(call(1), 1, 1000);
    agent.sign();
    let mut answers = agent.link(&books).await;
    agent.hear_out(&books, &mut answers).await;
    assert_eq!(agent.reasons(), ["noted", "noted", "open"]);

    // It vanishes, and a third process finds it dead.
    other.shared.lock().is_closed = true;
    std::mem::forget((seen, other));
    let third = scene.books().await;
    scene.until(async || third.record(call(1)).await.unwrap() != Known::Unknown).await;
    // Whichever of the two settles it, both know what was said.
    scene.until(async || scene.store.chain(AGENT, 0).await.unwrap().unwrap().open_leaves == 0).await;
    for missed in books.statements(AGENT, 0, agent.stated.statements).await.unwrap() {
        agent.take(&missed);
    }

    assert_eq!(agent.reasons(), ["noted", "noted", "late"]);
    assert_eq!(scene.balances().await, [9700, 0, 150, 0, 150], "the charge that was final stays");
    scene.audit().await;
}

async fn what_a_hub_forgot_is_believed_and_its_payer_owes_it_and_is_blocked(home: Home) {
    let scene = Scene::open(&home).await;
    scene.account().await;
    scene.deposit(600).await;
    let doomed = scene.crashing_books().await;
    let mut agent = LeafWriter::new(doomed.boot());
    let forgotten = call_at(unix_ms_now(), 1);
    let long_ago = call_at(unix_ms_now() - 3_600_000, 2);
    doomed.shared.lock().is_closed = true;
    std::mem::forget(doomed);
    let books = scene.books().await;
    for lost in [forgotten, long_ago] {
        agent.serve(lost, 1, 1000);
    }
    agent.commit(&books).await;

    let [stop] = scene.store.amnesia().await.unwrap()[..] else { panic!("one unclean stop") };
    assert_eq!((stop.boot, stop.why), (Some(agent.boot), AmnesiaCause::UncleanStop));
    assert_eq!(agent.reasons(), ["noted", "noted", "amnesia", "noted", "unobserved"]);
    assert_eq!(scene.balances().await, [-400, 0, 500, 0, 500]);
    let Known::Over(record) = books.record(forgotten).await.unwrap() else { panic!("it has a record now") };
    assert_eq!((record.settled.charge, record.outcome), (NanoUsd(1000), CallOutcome::HubLost));
    assert_eq!(scene.store.spent(KEY, Period::Total).await.unwrap(), NanoUsd(1000));
    let accounts = scene.store.accounts().await.unwrap();
    let account = accounts.iter().find(|account| account.id == ACCOUNT).unwrap();
    assert!(account.blocked_unix_ms.is_some(), "who owes is blocked");
    // Told again, it is no second charge.
    let mut restored = LeafWriter::of(AGENT, 1, agent.boot);
    restored.serve(forgotten, 1, 1000);
    restored.commit(&books).await;
    assert_eq!(restored.reasons(), ["noted", "noted", "refused"]);
    assert_eq!(scene.balances().await, [-400, 0, 500, 0, 500]);
    scene.audit().await;
}

async fn without_a_record_of_forgetting_what_nobody_saw_earns_nothing(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let gone = scene.books().await.boot();
    scene.stop().await;
    let books = scene.books().await;
    // Of a boot that ended well, of this one, and of one that nobody knows.
    for (n, boot) in (1..).zip([gone, books.boot(), BootId([9; 16])]) {
        let mut agent = LeafWriter::of(AgentId([n; 16]), 0, boot);
        agent.serve(call_at(unix_ms_now(), n.into()), 1, 1000);
        agent.commit(&books).await;
        assert_eq!(agent.reasons(), ["noted", "noted", "unobserved"]);
    }

    assert_eq!(scene.store.amnesia().await.unwrap(), []);
    assert_eq!(scene.balances().await, [10_000, 0, 0, 0, 0]);
    scene.audit().await;
}

async fn a_budget_for_what_nobody_saw_is_by_agent_and_day_and_pays_whole_attempts(home: Home) {
    let scene = Scene::open(&home).await;
    let books = scene.books_by(BookRules { orphan_budget: NanoUsd(700) }).await;
    let mut agent = LeafWriter::new(books.boot());
    for (n, list) in [(1, 1000), (2, 1000), (3, 400)] {
        agent.serve(call(n), 1, list);
    }
    agent.commit(&books).await;
    let mut other = LeafWriter::of(AgentId([5; 16]), 0, books.boot());
    other.serve(call(4), 1, 1000);
    other.commit(&books).await;
    agent.serve(call(5), 1, 10);
    agent.commit(&books).await;

    let reasons = ["noted", "noted", "orphan_budget", "noted", "unobserved", "noted", "orphan_budget"];
    assert_eq!(agent.reasons(), [&reasons[..], &["noted", "unobserved"]].concat(), "500 and 200 of 700");
    assert_eq!(other.reasons()[2], "orphan_budget");
    assert_eq!(scene.balances().await, [0, 0, 1200, 0, -1200], "the operator pays");
    scene.audit().await;
}

async fn a_database_that_went_back_in_time_is_proved_by_a_head_that_it_cosigned(home: Home) {
    let before = Scene::open(&home).await;
    let books = before.books().await;
    let boot = books.boot();
    let mut agent = LeafWriter::new(boot);
    let lost = call_at(unix_ms_now(), 1);
    agent.serve(lost, 1, 1000);
    agent.commit(&books).await;
    assert_eq!(agent.reasons()[2], "unobserved", "this hub saw nothing, and has forgotten nothing");
    before.stop().await;
    // Another database in its place: an old copy.
    let home = home.another().await;
    let scene = Scene::open(&home).await;
    scene.account().await;
    scene.agent(&agent).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let books = scene.books().await;
    let mut forger = agent.clone();
    forger.cosigned[100] ^= 1;

    let Greeted::Welcome { next, .. } = forger.greet(&books).await else { panic!("it is welcome") };
    assert_eq!((next, scene.store.amnesia().await.unwrap()), (0, vec![]), "a forged head proves nothing");
    for _ in 0..2 {
        let Greeted::Welcome { next, .. } = agent.greet(&books).await else { panic!("it is welcome") };
        assert_eq!(next, 0);
    }
    agent.stated = keyhaven_protocol::statement::Stated::NOTHING;
    agent.told.clear();
    let mut answers = agent.link(&books).await;
    agent.hear_out(&books, &mut answers).await;

    let [noted] = scene.store.amnesia().await.unwrap()[..] else { panic!("noted once") };
    assert_eq!((noted.why, noted.boot), (AmnesiaCause::Rollback, None));
    assert!(noted.to_unix_ms < unix_ms_now(), "what this boot sells is not forgotten");
    assert_eq!(agent.reasons(), ["noted", "noted", "amnesia"]);
    assert_eq!(scene.balances().await, [-1000, 0, 500, 0, 500]);
    scene.audit().await;
}

async fn leaves_that_may_not_say_what_they_say_are_refused_and_hold_nothing_up(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(100_000_000).await;
    let books = scene.books().await;
    let mut agent = LeafWriter::new(books.boot());
    for n in [1, 2, 3, 4] {
        scene.sell(&books, n, 1000).await;
    }
    let stranger = ed25519_dalek::SigningKey::from_bytes(&[66; 32]);
    let forged = agent.ticket(call(1), 1).sign(&stranger);
    agent.open_by(forged);
    agent.close(call(1), 1, Some(1000));
    let of_another = Ticket { agent: AgentId([78; 16]), ..agent.ticket(call(2), 1) };
    agent.open_by(of_another.sign(&BookKeys::samples().signing));
    agent.close(call(2), 1, Some(1000));
    agent.open(call(3), 1);
    agent.close(call(3), 1, Some(CEILING.0 + 1));
    agent.close(call(3), 1, Some(1000));
    agent.close(call(4), 1, Some(1000));
    agent.append(keyhaven_protocol::leaf::Event::HubKey(vec![1; 40]));
    let paid = keyhaven_protocol::leaf::Payout {
        payout: keyhaven_protocol::id::PayoutId([1; 16]),
        leaves_before: 1,
        amount: NanoUsd(1),
        method: "csv".to_owned(),
        reference: "none".to_owned(),
    };
    agent.append(keyhaven_protocol::leaf::Event::Payout(paid));
    agent.commit(&books).await;
    agent.serve(call(4), 1, 1000);
    agent.commit(&books).await;

    let refused = ["refused"; 4];
    let rest = ["noted", "refused", "agreed", "refused", "refused", "refused", "noted", "agreed"];
    assert_eq!(agent.reasons(), [&["noted"][..], &refused, &rest].concat());
    assert_eq!(agent.credited(), 1000);
    scene.audit().await;
}

async fn a_late_second_line_and_missed_statements_reach_an_agent_that_comes_back(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let books = scene.books().await;
    let mut agent = LeafWriter::new(books.boot());
    let hold = scene.dispatched(&books, 1).await;
    agent.serve(call(1), 1, 1000);
    agent.sign();
    let answers = agent.link(&books).await;
    scene.until(async || scene.store.chain(AGENT, 0).await.unwrap().is_some()).await;
    // The link is lost before anything is said.
    drop(answers);
    let silent = CallRecord::settled(sale(1), 200, NOW + 1, metering(NanoUsd(1000)), None).unwrap();
    books.settle(hold, silent);
    scene.until(async || scene.store.chain(AGENT, 0).await.unwrap().unwrap().open_leaves == 0).await;

    let Greeted::Welcome { next, is_owed, .. } = agent.greet(&books).await else { panic!("it is welcome") };
    assert_eq!((next, is_owed), (agent.chain.head().size, true));
    for missed in books.statements(AGENT, 0, agent.stated.statements).await.unwrap() {
        agent.take(&missed);
    }

    assert_eq!(agent.reasons(), ["noted", "noted", "agreed"]);
    assert_eq!((agent.stated.statements, agent.credited()), (2, 500));
    let Known::Over(record) = books.record(call(1)).await.unwrap() else { panic!("it is over") };
    assert_eq!(record.agent_metered.map(|agent| agent.list_nano_usd), Some(NanoUsd(1000)), "told with the call");
    let Greeted::Welcome { is_owed, .. } = agent.greet(&books).await else { panic!("it is welcome") };
    assert!(!is_owed);
    scene.audit().await;
}

async fn an_older_copy_and_another_history_are_told_by_where_they_stand(home: Home) {
    let scene = Scene::open(&home).await;
    let books = scene.books().await;
    let mut agent = LeafWriter::new(books.boot());
    agent.commit(&books).await;
    let older = agent.clone();
    let mut twin = agent.clone();
    agent.serve(call(1), 1, 0);
    agent.commit(&books).await;
    twin.serve(call(2), 1, 0);
    let mut renewed = LeafWriter::of(AGENT, 1, books.boot());

    assert!(matches!(agent.greet(&books).await, Greeted::Welcome { next: 3, .. }));
    assert!(matches!(older.greet(&books).await, Greeted::Behind));
    assert!(matches!(twin.greet(&books).await, Greeted::Fork));
    assert!(matches!(renewed.greet(&books).await, Greeted::Welcome { next: 0, .. }));
    renewed.commit(&books).await;
    assert!(matches!(agent.greet(&books).await, Greeted::Behind), "an epoch that was left is an older copy");
}

/// A call that began at this time.
fn call_at(unix_ms: u64, n: u64) -> CallId {
    let mut id = call(n).0;
    id[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
    CallId(id)
}

impl Scene {
    /// A call that an agent has, under way.
    pub(super) async fn dispatched(&self, books: &Books, n: u64) -> Hold {
        let mut hold = books.hold(call(n), &payer(), NanoUsd(2000), NOW).await.unwrap();
        hold.dispatched(sale(n));
        hold
    }

    /// A call that is over and written.
    pub(super) async fn sell(&self, books: &Books, n: u64, list: i64) {
        let hold = self.dispatched(books, n).await;
        books.settle(hold, record(n, NanoUsd(list)));
        self.until(async || self.is_over(n).await).await;
    }

    async fn is_over(&self, n: u64) -> bool {
        self.store.call_json(call(n)).await.unwrap().is_some()
    }

    /// Consumer, owed, all owners, suspense, margin.
    pub(super) async fn balances(&self) -> [i64; 5] {
        let mut found = [0; 5];
        let owners = (0..=255).map(|n| Side::Owner(AgentId([n; 16])));
        let sides = [Side::Consumer(ACCOUNT), Side::Owed, Side::Suspense, Side::Margin];
        for (at, side) in [0, 1, 3, 4].into_iter().zip(sides) {
            found[at] = self.store.balance(side).await.unwrap().0;
        }
        for owner in owners {
            found[2] += self.store.balance(owner).await.unwrap().0;
        }
        found
    }

    async fn account(&self) {
        let (id, name) = (ACCOUNT, "acme".to_owned());
        let account = Account { id, name, zone: Zone::Standard, created_unix_ms: 1, blocked_unix_ms: None };
        self.store.insert_account(&account).await.unwrap();
    }

    pub(super) async fn agent(&self, writer: &LeafWriter) {
        let token = crate::store::join_tokens::NewToken {
            id: keyhaven_protocol::id::TokenId([1; 16]),
            agent: writer.chain.id().agent,
            secret_hash: [2; 32],
            created_unix_ms: 1,
            expires_unix_ms: 2,
        };
        self.store.invite_agent("office", &token).await.unwrap();
    }
}
