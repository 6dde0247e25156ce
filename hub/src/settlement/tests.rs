//! Whether money is ever made, lost or spent twice.
//!
//! Invariant: every test ends with an audit of the whole ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::price::Zone;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::settle::Shares;
use keyhaven_protocol::usage::Meter;

use super::*;
use crate::key_policy::Budgets;
use crate::key_policy::KeyPolicy;
use crate::on_every_engine;
use crate::on_every_engine_threaded;
use crate::store::Home;
use crate::store::accounts::Deposit;

mod contention;
mod disputed;
mod intake;
mod leaf_writer;
mod server;

pub(super) const ACCOUNT: AccountId = AccountId([7; 16]);
pub(super) const KEY: ApiKeyId = ApiKeyId([8; 16]);
pub(super) const AGENT: AgentId = AgentId([9; 16]);

/// 2026-11-20T10:00:00Z.
pub(super) const NOW: u64 = 1_795_168_800_000;

on_every_engine![
    a_call_takes_what_it_cost_and_gives_back_the_rest,
    a_hold_that_no_agent_got_costs_nothing_and_one_that_did_costs_what_was_seen,
    what_a_process_that_died_left_open_costs_what_was_last_written,
    a_process_that_was_taken_for_dead_charges_nothing_twice,
    a_call_that_is_written_already_stays_as_it_is,
    a_deposit_is_booked_once_by_its_reference_and_can_be_spent_soon,
    a_blocked_account_and_a_spent_budget_are_told_apart,
    a_budget_that_is_lowered_counts_what_was_spent_and_a_new_day_begins_anew,
    a_database_that_does_not_write_stops_sales_and_loses_nothing,
    what_is_leased_and_not_used_goes_back_to_be_spent_by_another_process,
    an_idempotency_key_stands_for_one_call_that_was_delivered,
    what_became_of_a_key_of_a_process_that_died_is_not_known,
];

async fn an_idempotency_key_stands_for_one_call_that_was_delivered(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(100).await;
    let books = scene.books().await;

    let once = books.once(ACCOUNT, b"key", call(1)).await.unwrap();
    let under_way = books.once(ACCOUNT, b"key", call(2)).await;
    assert!(matches!(under_way, Err(Repeated::UnderWay(first)) if first == call(1)), "{:?}", under_way.err());
    assert!(books.once(AccountId([6; 16]), b"key", call(3)).await.is_ok(), "another account's key is another key");
    // No agent served it: the same key may be tried again.
    drop(once);
    let once = books.once(ACCOUNT, b"key", call(4)).await.unwrap();
    let hold = books.hold(call(4), &payer(), NanoUsd(90), NOW).await.unwrap();
    books.settle(hold, record(4, NanoUsd(50)));
    drop(once);

    let over = books.once(ACCOUNT, b"key", call(5)).await;
    assert!(matches!(&over, Err(Repeated::Over(record)) if record.sale.call == call(4)), "{:?}", over.err());
    scene.stop().await;
    scene.audit().await;
}

async fn what_became_of_a_key_of_a_process_that_died_is_not_known(home: Home) {
    let scene = Scene::open(&home).await;
    drop(scene.crashing_books().await.once(ACCOUNT, b"key", call(1)).await.unwrap());

    let lost = scene.books().await.once(ACCOUNT, b"key", call(2)).await;

    assert!(matches!(lost, Err(Repeated::Lost(first)) if first == call(1)), "{:?}", lost.err());
    scene.stop().await;
}

async fn a_call_takes_what_it_cost_and_gives_back_the_rest(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(100).await;
    let books = scene.books().await;

    let hold = books.hold(call(1), &payer(), NanoUsd(90), NOW).await.unwrap();
    assert_eq!(books.hold(call(2), &payer(), NanoUsd(11), NOW).await.unwrap_err(), HoldError::Balance);
    assert_eq!(books.record(call(1)).await.unwrap(), Known::UnderWay(ACCOUNT));
    let record = record(1, NanoUsd(40));
    books.settle(hold, record.clone());

    assert_eq!(books.record(call(1)).await.unwrap(), Known::Over(Box::new(record.clone())));
    assert!(books.hold(call(3), &payer(), NanoUsd(60), NOW).await.is_ok());
    scene.stop().await;
    let books = scene.books().await;
    assert_eq!(books.record(call(1)).await.unwrap(), Known::Over(Box::new(record)));
    assert_eq!(books.record(call(2)).await.unwrap(), Known::Unknown);
    assert_eq!(books.balance(ACCOUNT).await.unwrap(), NanoUsd(60));
    // The leaf has not come.
    assert_eq!(scene.store.balance(Side::Owner(AGENT)).await.unwrap(), NanoUsd(0));
    assert_eq!(scene.store.balance(Side::Owed).await.unwrap(), NanoUsd(20));
    assert_eq!(scene.store.balance(Side::Margin).await.unwrap(), NanoUsd(20));
    assert_eq!(scene.store.spent(KEY, Period::Total).await.unwrap(), NanoUsd(40));
    scene.audit().await;
}

async fn a_hold_that_no_agent_got_costs_nothing_and_one_that_did_costs_what_was_seen(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(100).await;
    let books = scene.books().await;

    drop(books.hold(call(1), &payer(), NanoUsd(100), NOW).await.unwrap());
    let mut withdrawn = books.hold(call(2), &payer(), NanoUsd(100), NOW).await.unwrap();
    withdrawn.dispatched(sale(2));
    withdrawn.observed(NanoUsd(50));
    withdrawn.withdrawn();
    drop(withdrawn);
    let mut seen = books.hold(call(3), &payer(), NanoUsd(100), NOW).await.unwrap();
    seen.dispatched(sale(3));
    seen.observed(NanoUsd(30));
    drop(seen);

    scene.stop().await;
    let books = scene.books().await;
    assert_eq!(books.balance(ACCOUNT).await.unwrap(), NanoUsd(70));
    let Known::Over(record) = books.record(call(3)).await.unwrap() else { panic!("it is over") };
    assert_eq!((record.outcome, record.settled.charge), (CallOutcome::HubLost, NanoUsd(30)));
    // The agent has not said what it metered.
    assert_eq!(scene.store.balance(Side::Owed).await.unwrap(), NanoUsd(15));
    assert_eq!(books.record(call(2)).await.unwrap(), Known::Unknown);
    scene.audit().await;
}

async fn what_a_process_that_died_left_open_costs_what_was_last_written(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(1000).await;
    let crashed = scene.crashing_books().await;
    let mut seen = crashed.hold(call(1), &payer(), NanoUsd(500), NOW).await.unwrap();
    seen.dispatched(sale(1));
    seen.observed(NanoUsd(123));
    let mut unseen = crashed.hold(call(2), &payer(), NanoUsd(400), NOW).await.unwrap();
    unseen.dispatched(sale(2));
    let held = crashed.hold(call(3), &payer(), NanoUsd(100), NOW).await.unwrap();
    scene.until(async || scene.is_under_way(1).await && scene.is_under_way(2).await).await;
    // Nobody wrote this.
    seen.observed(NanoUsd(124));
    let before = scene.store.boots().await.unwrap().len();
    std::mem::forget((seen, unseen, held, crashed));

    let books = scene.books().await;

    assert_eq!(before, 1);
    assert_eq!(scene.store.boots().await.unwrap().len(), 1);
    assert_eq!(books.balance(ACCOUNT).await.unwrap(), NanoUsd(877));
    // Nothing is stuck: all that is left can be held.
    assert!(books.hold(call(4), &payer(), NanoUsd(877), NOW).await.is_ok());
    scene.audit().await;
}

async fn a_process_that_was_taken_for_dead_charges_nothing_twice(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(1000).await;
    let sleeper = scene.crashing_books().await;
    let mut one = sleeper.hold(call(1), &payer(), NanoUsd(500), NOW).await.unwrap();
    one.dispatched(sale(1));
    one.observed(NanoUsd(100));
    scene.until(async || scene.is_under_way(1).await).await;
    let mut other = sleeper.hold(call(2), &payer(), NanoUsd(500), NOW).await.unwrap();
    other.dispatched(sale(2));
    let books = scene.books().await;
    assert_eq!(books.balance(ACCOUNT).await.unwrap(), NanoUsd(900));

    sleeper.settle(one, record(1, NanoUsd(400)));
    sleeper.settle(other, record(2, NanoUsd(50)));

    scene.until(async || books.balance(ACCOUNT).await.unwrap() == NanoUsd(850)).await;
    let Known::Over(record) = books.record(call(1)).await.unwrap() else { panic!("it is over") };
    assert_eq!((record.outcome, record.settled.charge), (CallOutcome::HubLost, NanoUsd(100)));
    scene.audit().await;
}

async fn a_call_that_is_written_already_stays_as_it_is(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(1000).await;
    let books = scene.books().await;
    let hold = books.hold(call(1), &payer(), NanoUsd(500), NOW).await.unwrap();
    assert_eq!(books.hold(call(1), &payer(), NanoUsd(1), NOW).await.unwrap_err(), HoldError::Unavailable);
    books.settle(hold, record(1, NanoUsd(100)));
    scene.until(async || books.shared.lock().calls.is_empty()).await;

    let again = books.hold(call(1), &payer(), NanoUsd(500), NOW).await.unwrap();
    books.settle(again, record(1, NanoUsd(400)));
    scene.stop().await;

    let books = scene.books().await;
    assert_eq!(books.balance(ACCOUNT).await.unwrap(), NanoUsd(900));
    assert!(books.hold(call(2), &payer(), NanoUsd(900), NOW).await.is_ok());
    scene.audit().await;
}

async fn a_deposit_is_booked_once_by_its_reference_and_can_be_spent_soon(home: Home) {
    let scene = Scene::open(&home).await;
    let books = scene.books().await;
    assert_eq!(books.hold(call(1), &payer(), NanoUsd(5), NOW).await.unwrap_err(), HoldError::Balance);
    let paid = Deposit { reference: "invoice 1".to_owned(), account: ACCOUNT, amount: NanoUsd(5), at_unix_ms: 1 };

    assert_eq!(deposit(&scene.store, &paid).await.unwrap(), Booked::Now);
    assert_eq!(deposit(&scene.store, &paid).await.unwrap(), Booked::Before);
    let more = Deposit { amount: NanoUsd(6), ..paid.clone() };
    assert!(matches!(deposit(&scene.store, &more).await, Err(DepositError::Differs { .. })));
    let other = Deposit { account: AccountId([1; 16]), ..paid.clone() };
    assert!(matches!(deposit(&scene.store, &other).await, Err(DepositError::Differs { .. })));
    for amount in [0, -1] {
        let none = Deposit { amount: NanoUsd(amount), reference: "invoice 2".to_owned(), ..paid.clone() };
        assert!(matches!(deposit(&scene.store, &none).await, Err(DepositError::Amount)));
    }

    assert_eq!(scene.store.deposits(ACCOUNT).await.unwrap(), [paid]);
    scene.until(async || books.hold(call(2), &payer(), NanoUsd(5), NOW).await.is_ok()).await;
    assert_eq!(scene.store.balance(Side::Deposits).await.unwrap(), NanoUsd(-5));
    scene.audit().await;
}

async fn a_blocked_account_and_a_spent_budget_are_told_apart(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(1000).await;
    let books = scene.books().await;
    let of = |day, month, total| payer_with(Budgets { day, month, total });
    let some = Some(NanoUsd(10));
    let ask = async |payer: &Payer| books.hold(call(1), payer, NanoUsd(11), NOW).await.map(|_| ()).unwrap_err();

    assert_eq!(ask(&of(some, None, None)).await, HoldError::DayBudget);
    assert_eq!(ask(&of(None, some, None)).await, HoldError::MonthBudget);
    assert_eq!(ask(&of(None, None, some)).await, HoldError::TotalBudget);
    assert_eq!(ask(&Payer { is_blocked: true, ..payer() }).await, HoldError::Blocked);
    assert!(books.hold(call(2), &of(some, some, some), NanoUsd(10), NOW).await.is_ok());
}

async fn a_budget_that_is_lowered_counts_what_was_spent_and_a_new_day_begins_anew(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(10_000).await;
    let books = scene.books().await;
    let high = payer_with(Budgets { day: Some(NanoUsd(1000)), ..Budgets::default() });
    let low = payer_with(Budgets { day: Some(NanoUsd(150)), ..Budgets::default() });
    let hold = books.hold(call(1), &high, NanoUsd(100), NOW).await.unwrap();

    assert_eq!(books.hold(call(2), &low, NanoUsd(51), NOW).await.unwrap_err(), HoldError::DayBudget);
    books.settle(hold, record(1, NanoUsd(100)));
    assert_eq!(books.hold(call(3), &low, NanoUsd(51), NOW).await.unwrap_err(), HoldError::DayBudget);
    let tomorrow = NOW + 24 * 3600 * 1000;
    assert!(books.hold(call(4), &low, NanoUsd(150), tomorrow).await.is_ok());
    scene.stop().await;

    assert_eq!(scene.store.spent(KEY, Period::of(NOW)[0]).await.unwrap(), NanoUsd(100));
    assert_eq!(scene.store.spent(KEY, Period::of(tomorrow)[0]).await.unwrap(), NanoUsd(0));
    scene.audit().await;
}

async fn a_database_that_does_not_write_stops_sales_and_loses_nothing(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(1000).await;
    let books = scene.books().await;
    let early = books.hold(call(1), &payer(), NanoUsd(100), NOW).await.unwrap();
    let late = books.hold(call(2), &payer(), NanoUsd(100), NOW).await.unwrap();
    assert_eq!(books.trouble(), None);
    scene.store.refuse_batches(true).await;

    books.settle(early, record(1, NanoUsd(10)));
    scene.until(async || books.trouble().is_some()).await;

    assert_eq!(books.hold(call(3), &payer(), NanoUsd(1), NOW).await.unwrap_err(), HoldError::Unavailable);
    books.settle(late, record(2, NanoUsd(20)));
    assert!(matches!(books.record(call(2)).await.unwrap(), Known::Over(_)));
    assert_eq!(books.balance(ACCOUNT).await.unwrap(), NanoUsd(1000));
    scene.store.refuse_batches(false).await;
    scene.until(async || books.trouble().is_none()).await;
    assert!(books.hold(call(3), &payer(), NanoUsd(1), NOW).await.is_ok());
    scene.until(async || books.balance(ACCOUNT).await.unwrap() == NanoUsd(970)).await;
    scene.audit().await;
}

async fn what_is_leased_and_not_used_goes_back_to_be_spent_by_another_process(home: Home) {
    let scene = Scene::open(&home).await;
    scene.deposit(1000).await;
    let one = scene.books().await;
    drop(one.hold(call(1), &payer(), NanoUsd(10), NOW).await.unwrap());
    let two = scene.books_beside().await;

    // All of it was leased to the first.
    let hold = two.hold(call(2), &payer(), NanoUsd(1000), NOW).await;

    assert!(hold.is_ok(), "{hold:?}");
    assert_eq!(one.hold(call(3), &payer(), NanoUsd(1), NOW).await.unwrap_err(), HoldError::Unavailable);
}

/// A database, and the books that were opened on it.
pub(super) struct Scene {
    pub(super) store: Store,
    tasks: std::sync::Mutex<Tasks>,
}

impl Scene {
    pub(super) async fn open(home: &Home) -> Arc<Self> {
        let store = home.open().await;
        Arc::new(Self { store, tasks: std::sync::Mutex::new(Tasks::new()) })
    }

    pub(super) async fn deposit(&self, amount: i64) {
        let reference = uuid::Uuid::new_v4().to_string();
        let paid = Deposit { reference, account: ACCOUNT, amount: NanoUsd(amount), at_unix_ms: NOW };
        assert_eq!(deposit(&self.store, &paid).await.unwrap(), Booked::Now);
    }

    /// The books of a process that has the database for itself.
    pub(super) async fn books(&self) -> Books {
        let tasks = self.tasks.lock().unwrap().clone();
        Books::start_at(start(), self.store.clone(), Others::None, &tasks).await.unwrap()
    }

    /// The same by other rules.
    pub(super) async fn books_by(&self, rules: BookRules) -> Books {
        let tasks = self.tasks.lock().unwrap().clone();
        Books::start_at(Start { rules, ..start() }, self.store.clone(), Others::None, &tasks).await.unwrap()
    }

    /// The books of a process that ends here, in the middle of a batch.
    pub(super) async fn books_that_end_at(&self, crash: CrashPoint) -> Books {
        let start = Start { crash: Some(crash), ..start() };
        Books::start_at(start, self.store.clone(), Others::None, &Tasks::new()).await.unwrap()
    }

    pub(super) async fn books_beside(&self) -> Books {
        let tasks = self.tasks.lock().unwrap().clone();
        Books::start_at(start(), self.store.clone(), Others::MayLive, &tasks).await.unwrap()
    }

    /// The books of a process that will not end well: nobody tells it to stop.
    pub(super) async fn crashing_books(&self) -> Books {
        Books::start_at(start(), self.store.clone(), Others::None, &Tasks::new()).await.unwrap()
    }

    pub(super) async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        tasks.shut_down(Duration::ZERO).await;
    }

    pub(super) async fn until(&self, mut condition: impl AsyncFnMut() -> bool) {
        let reached = async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached).await.expect("it comes about in time");
    }

    async fn is_under_way(&self, n: u64) -> bool {
        let mut batch = self.store.begin_batch(None, NOW).await.unwrap();
        let mut found = false;
        for boot in self.store.boots().await.unwrap() {
            found |= batch.holds_of(boot.id, 1000).await.unwrap().iter().any(|held| held.call == call(n));
        }
        found
    }

    pub(super) async fn audit(&self) {
        assert_eq!(self.store.audit_ledger().await.unwrap(), Vec::<String>::new());
    }
}

const PACE: Pace = Pace {
    linger: Duration::from_millis(1),
    tick: Duration::from_millis(10),
    observe: Duration::from_millis(20),
    alive: Duration::from_millis(50),
    dead: Duration::from_secs(20),
    idle: Duration::from_millis(100),
};

fn start() -> Start {
    Start { pace: PACE, keys: BookKeys::samples(), rules: BookRules::default(), crash: None }
}

pub(super) fn call(n: u64) -> CallId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    CallId(id)
}

pub(super) fn payer() -> Payer {
    payer_with(Budgets::default())
}

pub(super) fn payer_with(budgets: Budgets) -> Payer {
    let policy = KeyPolicy { budgets, ..KeyPolicy::default() };
    Payer { account: ACCOUNT, key: KEY, zone: Zone::Standard, is_blocked: false, policy }
}

/// A consumer pays the list price, the owner gets half.
pub(super) fn sale(n: u64) -> Sale {
    Sale {
        call: call(n),
        account: ACCOUNT,
        key: KEY,
        agent: AGENT,
        attempt: 1,
        provider: Provider::OpenAi,
        endpoint: "openai chat completions".to_owned(),
        model: "gpt-4o".to_owned(),
        began_unix_ms: NOW,
        price_version: 1,
        price_hash: Hex([1; 32]),
        zone: Zone::Standard,
        shares: Shares { zone: Ppm(1_000_000), tier: Ppm(500_000) },
        held: NanoUsd(0),
    }
}

pub(super) fn metering(list: NanoUsd) -> Metering {
    Metering {
        outcome: CallOutcome::Complete,
        heard: BTreeMap::new(),
        elapsed_ms: 0,
        usage: BTreeMap::from([(Meter::Input, 10), (Meter::Output, 3)]),
        lines: Vec::new(),
        list_nano_usd: list,
        tier: ServiceTier::Standard,
        model: Some("gpt-4o-2024-08-06".to_owned()),
        rule: "stated".to_owned(),
        estimated: false,
        doubts: Vec::new(),
        response_bytes: 100,
    }
}

/// A call that both sides metered alike.
pub(super) fn record(n: u64, list: NanoUsd) -> CallRecord {
    let metered = metering(list);
    CallRecord::settled(sale(n), 200, NOW + 1, metered.clone(), Some(metered)).unwrap()
}
