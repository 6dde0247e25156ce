//! Many calls at once, and processes that die at any moment.
//!
//! Invariant: no balance and no budget is ever overspent, whatever happens in which order.

use std::time::Instant;

use proptest::prelude::*;

use super::*;

on_every_engine_threaded![
    of_500_calls_at_once_on_a_balance_for_10_exactly_10_run,
    no_budget_is_overspent_however_many_calls_come_at_once,
    two_processes_on_one_balance_do_not_overspend_it_together,
    settlements_per_second,
];

async fn of_500_calls_at_once_on_a_balance_for_10_exactly_10_run(home: Home) {
    for round in 0..4 {
        let home = home.another().await;
        let scene = Scene::open(&home).await;
        scene.deposit(10 * 7 + 6).await;
        let books = scene.books().await;

        let held = all_at_once(&books, &payer(), 500, NanoUsd(7)).await;

        assert_eq!(held.len(), 10, "round {round}");
        for (n, hold) in held {
            books.settle(hold, record(n, NanoUsd(7)));
        }
        scene.stop().await;
        assert_eq!(scene.store.balance(Side::Consumer(ACCOUNT)).await.unwrap(), NanoUsd(6));
        scene.audit().await;
    }
}

async fn no_budget_is_overspent_however_many_calls_come_at_once(home: Home) {
    let budget = Some(NanoUsd(10 * 7 + 6));
    let rows = [
        Budgets { day: budget, ..Budgets::default() },
        Budgets { month: budget, ..Budgets::default() },
        Budgets { total: budget, ..Budgets::default() },
        Budgets { day: budget, month: Some(NanoUsd(1000)), total: Some(NanoUsd(100)) },
    ];
    for budgets in rows {
        let home = home.another().await;
        let scene = Scene::open(&home).await;
        scene.deposit(1_000_000).await;
        let books = scene.books().await;

        let held = all_at_once(&books, &payer_with(budgets), 300, NanoUsd(7)).await;

        assert_eq!(held.len(), 10, "{budgets:?}");
        for (n, hold) in held {
            books.settle(hold, record(n, NanoUsd(7)));
        }
        scene.stop().await;
        assert_eq!(scene.store.spent(KEY, Period::Total).await.unwrap(), NanoUsd(70));
        let books = scene.books().await;
        assert_eq!(all_at_once(&books, &payer_with(budgets), 20, NanoUsd(7)).await.len(), 0);
        assert_eq!(all_at_once(&books, &payer_with(budgets), 20, NanoUsd(6)).await.len(), 1);
        scene.audit().await;
    }
}

async fn two_processes_on_one_balance_do_not_overspend_it_together(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10 * 7 + 6).await;
    let (one, two) = (scene.books().await, scene.books_beside().await);

    let payer = payer();
    let held = tokio::join!(
        all_at_once_from(&one, &payer, 0..100, NanoUsd(7)),
        all_at_once_from(&two, &payer, 100..200, NanoUsd(7))
    );

    assert!(held.0.len() + held.1.len() <= 10, "{} and {}", held.0.len(), held.1.len());
    assert!(!held.0.is_empty() || !held.1.is_empty());
    scene.audit().await;
}

async fn settlements_per_second(home: Home) {
    const CALLS: u64 = 10_000;
    let scene = Scene::open(&home).await;
    scene.deposit(i64::MAX / 2).await;
    let books = scene.books().await;

    let began = Instant::now();
    for n in 0..CALLS {
        let mut hold = books.hold(call(n), &payer(), NanoUsd(1_000_000), NOW).await.unwrap();
        hold.dispatched(sale(n));
        books.settle(hold, record(n, NanoUsd(400_000)));
    }
    let captured = began.elapsed();
    scene.stop().await;
    let written = began.elapsed();

    let per_second = |took: Duration| u128::from(CALLS) * 1_000_000 / took.as_micros().max(1);
    println!("{} calls/s held and captured, {} settlements/s written", per_second(captured), per_second(written));
    let cost = i64::try_from(CALLS).unwrap() * 400_000;
    assert_eq!(scene.store.balance(Side::Consumer(ACCOUNT)).await.unwrap(), NanoUsd(i64::MAX / 2 - cost));
    scene.audit().await;
}

/// What may happen to a call, or to all of them.
#[derive(Debug, Clone)]
enum Step {
    Hold(i64),
    Dispatch(usize),
    Observe(usize, i64),
    Withdraw(usize),
    Settle(usize, i64),
    Drop(usize),
    Wait,
    Stop,
    Crash,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_in_which_order_the_books_add_up(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(&Home::sqlite(), steps));
    }

    #[test]
    fn and_on_a_server_too(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { play(&Home::mysql().await, steps).await });
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..400_i64).prop_map(Step::Hold),
        4 => any::<usize>().prop_map(Step::Dispatch),
        3 => (any::<usize>(), 0..400_i64).prop_map(|(which, cost)| Step::Observe(which, cost)),
        1 => any::<usize>().prop_map(Step::Withdraw),
        4 => (any::<usize>(), 0..400_i64).prop_map(|(which, cost)| Step::Settle(which, cost)),
        2 => any::<usize>().prop_map(Step::Drop),
        2 => Just(Step::Wait),
        1 => Just(Step::Stop),
        1 => Just(Step::Crash),
    ]
}

struct Under {
    n: u64,
    hold: Hold,
    is_dispatched: bool,
    observed: i64,
}

const PAID: i64 = 1000;

/// Plays the steps against a real database and keeps its own, simple account of what each call
/// may have cost.
async fn play(home: &Home, steps: Vec<Step>) {
    let scene = Scene::open(home).await;
    scene.deposit(PAID).await;
    let mut books = scene.crashing_books().await;
    let mut under_way: Vec<Under> = Vec::new();
    // What calls cost that ended for certain.
    let mut certain: BTreeMap<u64, i64> = BTreeMap::new();
    // What calls may cost at most whose process died.
    let mut at_most: BTreeMap<u64, i64> = BTreeMap::new();
    for (n, step) in (0..).zip(steps) {
        let pick = |which: usize, calls: &Vec<Under>| (!calls.is_empty()).then(|| which % calls.len().max(1));
        match step {
            Step::Hold(amount) => {
                if let Ok(hold) = books.hold(call(n), &payer(), NanoUsd(amount), NOW).await {
                    under_way.push(Under { n, hold, is_dispatched: false, observed: 0 });
                }
                let held: i64 = under_way.iter().map(|under| under.hold.amount().0).sum();
                assert!(held + certain.values().sum::<i64>() <= PAID, "more is held than there is");
            }
            Step::Dispatch(which) => {
                if let Some(at) = pick(which, &under_way) {
                    let under = &mut under_way[at];
                    under.hold.dispatched(sale(under.n));
                    under.is_dispatched = true;
                }
            }
            Step::Observe(which, cost) => {
                if let Some(at) = pick(which, &under_way) {
                    let under = &mut under_way[at];
                    if under.is_dispatched {
                        under.observed = cost.min(under.hold.amount().0);
                        under.hold.observed(NanoUsd(under.observed));
                    }
                }
            }
            Step::Withdraw(which) => {
                if let Some(at) = pick(which, &under_way) {
                    under_way[at].hold.withdrawn();
                    (under_way[at].is_dispatched, under_way[at].observed) = (false, 0);
                }
            }
            Step::Settle(which, cost) => {
                if let Some(at) = pick(which, &under_way) {
                    let Under { n, hold, .. } = under_way.remove(at);
                    let cost = cost.min(hold.amount().0);
                    books.settle(hold, record(n, NanoUsd(cost)));
                    certain.insert(n, cost);
                }
            }
            Step::Drop(which) => {
                if let Some(at) = pick(which, &under_way) {
                    let under = under_way.remove(at);
                    certain.insert(under.n, if under.is_dispatched { under.observed } else { 0 });
                    drop(under.hold);
                }
            }
            Step::Wait => tokio::time::sleep(Duration::from_millis(25)).await,
            Step::Stop => {
                for under in under_way.drain(..) {
                    certain.insert(under.n, if under.is_dispatched { under.observed } else { 0 });
                }
                scene.settled_all(&books).await;
                books.die();
                books = scene.crashing_books().await;
            }
            Step::Crash => {
                // What ended and was not written may be lost, what is under way ends by what was
                // written of it.
                books.die();
                for (n, cost) in std::mem::take(&mut certain) {
                    at_most.insert(n, cost.max(400));
                }
                for under in under_way.drain(..) {
                    at_most.insert(under.n, 400);
                    std::mem::forget(under.hold);
                }
                books = scene.crashing_books().await;
                settle_accounts(&books, &mut certain, &mut at_most).await;
            }
        }
    }
    for under in under_way.drain(..) {
        certain.insert(under.n, if under.is_dispatched { under.observed } else { 0 });
    }
    scene.settled_all(&books).await;
    books.die();
    let books = scene.crashing_books().await;
    let spent: i64 = certain.values().sum();
    let left = books.balance(ACCOUNT).await.unwrap();
    assert_eq!(left, NanoUsd(PAID - spent));
    assert!(books.hold(call(u64::MAX), &payer(), left, NOW).await.is_ok(), "money is stuck");
    scene.audit().await;
    books.die();
}

/// After a crash the database says what became of each call; it must be within bounds.
async fn settle_accounts(books: &Books, certain: &mut BTreeMap<u64, i64>, at_most: &mut BTreeMap<u64, i64>) {
    for (n, most) in std::mem::take(at_most) {
        match books.record(call(n)).await.unwrap() {
            Known::Over(record) => {
                assert!(record.settled.charge.0 <= most, "{n} cost {:?}", record.settled.charge);
                certain.insert(n, record.settled.charge.0);
            }
            Known::Unknown => {}
            Known::UnderWay(_) => panic!("{n} is under way in a process that died"),
        }
    }
}

impl Scene {
    async fn settled_all(&self, books: &Books) {
        self.until(async || books.shared.lock().calls.is_empty()).await;
    }
}

impl Books {
    /// Ends without a word: nothing is written any more.
    fn die(&self) {
        self.shared.lock().is_closed = true;
    }
}

async fn all_at_once(books: &Books, payer: &Payer, calls: u64, amount: NanoUsd) -> Vec<(u64, Hold)> {
    all_at_once_from(books, payer, 0..calls, amount).await
}

async fn all_at_once_from(
    books: &Books,
    payer: &Payer,
    calls: std::ops::Range<u64>,
    amount: NanoUsd,
) -> Vec<(u64, Hold)> {
    let tasks: Vec<_> = calls
        .map(|n| {
            let (books, payer) = (books.clone(), payer.clone());
            #[expect(clippy::disallowed_methods, reason = "calls come on threads of their own, and are awaited below")]
            tokio::spawn(async move { books.hold(call(n), &payer, amount, NOW).await.map(|hold| (n, hold)) })
        })
        .collect();
    let mut held = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(one) => held.push(one),
            Err(error) => assert_ne!(error, HoldError::Blocked),
        }
    }
    held
}
