//! The books: money is set aside before a call, taken after it, and every movement of it is
//! written down twice.
//!
//! Invariant: no call begins on money that is not leased to this process, so no balance and no
//! budget is overspent; what a call cost is written once, whoever ends it.

mod booking;
mod deposit;
mod hold;
mod intake;
mod lease;
mod once;
mod payout;
mod purses;
mod record;
mod suspense;
mod sweep;
mod writer;

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use metrics::counter;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::error;
use uuid::Uuid;

use crate::key_policy::Payer;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::calls::UsageFilter;
use crate::store::calls::UsageRow;
use crate::store::leases::Period;
use crate::store::leases::Purse;
use crate::store::ledger::Side;

pub use deposit::Booked;
pub use deposit::DepositError;
pub use deposit::deposit;
pub use hold::Hold;
pub use intake::Answer;
pub use intake::Answers;
pub use intake::BookKeys;
pub use intake::BookRules;
pub use intake::ChainReader;
pub use intake::Greeted;
pub use intake::Read;
pub use intake::ReadError;
pub use intake::VerifiedGroup;
pub use once::Once;
pub use once::Repeated;
pub use payout::PayoutError;
pub use payout::pay_out;
pub use record::CallOutcome;
pub use record::CallRecord;
pub use record::Metering;
pub use record::Sale;
pub use record::with_leaf;
pub use suspense::ResolveError;
pub use suspense::Winner;
pub use suspense::resolve;

use hold::OpenCall;
use intake::Listener;
use intake::Waiting;
use purses::Limit;
use purses::Purses;
use purses::limits_of;
use writer::CrashPoint;

/// Calls that are held, or over and not written yet, at once; more are refused. So what waits
/// for the database is bounded, and a call that ends never waits for room.
const CALLS_MAX: usize = 32_768;

/// What is leased at once of a purse that is seldom used: $1.
const SLICE_MIN: NanoUsd = NanoUsd(1_000_000_000);

/// And of one that is used all the time: $1,024.
const SLICE_MAX: NanoUsd = NanoUsd(1_024_000_000_000);

/// A call's cost is written down again when it grew by so much: a cent.
const OBSERVED_STEP: NanoUsd = NanoUsd(10_000_000);

/// How long a hold may wait for the database.
const HOLD_TIME_MAX: Duration = Duration::from_millis(1500);

/// Between two questions whether another process has given back what is needed.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(50);

/// A batch that takes longer than this stops new calls until it is written.
const STALL: Duration = Duration::from_secs(5);

/// How often things happen. Tests make them happen sooner.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// What waits for company before it is written.
    linger: Duration,
    /// Between two looks at what is due.
    tick: Duration,
    /// Between two writings of what calls under way have cost.
    observe: Duration,
    /// Between two signs of life, and two looks for processes that died.
    alive: Duration,
    /// A process without a sign of life for so long has died.
    dead: Duration,
    /// What is leased and not used for so long is given back.
    idle: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(10),
            tick: Duration::from_millis(250),
            observe: Duration::from_secs(1),
            alive: Duration::from_secs(5),
            dead: Duration::from_secs(20),
            idle: Duration::from_secs(10),
        }
    }
}

/// How books begin.
struct Start {
    pace: Pace,
    keys: BookKeys,
    rules: BookRules,
    crash: Option<CrashPoint>,
}

/// Whether other processes may have the same database open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// None has: whoever did not end properly has died.
    None,
    /// One that is being replaced, or hubs on other machines.
    MayLive,
}

/// Why a call may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// The account's balance is too low.
    #[error("the balance is too low")]
    Balance,
    /// The key's budget for the day is.
    #[error("the budget of the day is too low")]
    DayBudget,
    /// The key's budget for the month is.
    #[error("the budget of the month is too low")]
    MonthBudget,
    /// The key's budget is.
    #[error("the total budget is too low")]
    TotalBudget,
    /// The account is blocked.
    #[error("the account is blocked")]
    Blocked,
    /// The database does not write, or another process has the money for the moment.
    #[error("nothing can be sold for the moment")]
    Unavailable,
}

impl HoldError {
    /// What the consumer is told.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Balance => ErrorCode::BalanceTooLow,
            Self::DayBudget => ErrorCode::BudgetDaySpent,
            Self::MonthBudget => ErrorCode::BudgetMonthSpent,
            Self::TotalBudget => ErrorCode::BudgetTotalSpent,
            Self::Blocked => ErrorCode::AccountBlocked,
            Self::Unavailable => ErrorCode::BooksUnavailable,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Balance => "balance",
            Self::DayBudget => "day",
            Self::MonthBudget => "month",
            Self::TotalBudget => "total",
            Self::Blocked => "blocked",
            Self::Unavailable => "unavailable",
        }
    }

    const fn of(purse: Purse) -> Self {
        match purse {
            Purse::Account(_) => Self::Balance,
            Purse::Key(_, Period::Day(_)) => Self::DayBudget,
            Purse::Key(_, Period::Month(_)) => Self::MonthBudget,
            Purse::Key(_, Period::Total) => Self::TotalBudget,
        }
    }
}

/// What is known of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It is under way in this process, on this account's money.
    UnderWay(AccountId),
    /// It is over.
    Over(Box<CallRecord>),
    /// No call of this id was sold.
    Unknown,
}

/// The books of one hub process. Cheap to clone.
#[derive(Clone)]
pub struct Books {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    pace: Pace,
    keys: BookKeys,
    rules: BookRules,
    /// Where this process ends, in tests.
    crash: Option<CrashPoint>,
    state: Mutex<State>,
    /// For groups that wait.
    room: Arc<tokio::sync::Semaphore>,
    /// Whose turn it is to move leases or money in the database, and the boot to do it for.
    turn: tokio::sync::Mutex<BootId>,
    /// Something is to be written.
    wake: Notify,
}

struct State {
    /// The boot of this process, as the database knows it.
    boot: BootId,
    /// It, and those that other processes ended while this one lived.
    own_boots: Vec<BootId>,
    purses: Purses,
    calls: HashMap<CallId, Phase>,
    /// Idempotency keys of calls that are under way.
    under_way: once::UnderWay,
    /// In the order of their ends.
    ended: VecDeque<Arc<Ended>>,
    /// Calls that the database knows as under way, and that are not.
    forgotten: Vec<CallId>,
    /// Groups of leaves, in the order in which they came.
    submitted: VecDeque<Arc<Waiting>>,
    /// Calls under way here of which leaves wait for the end.
    awaited: HashSet<CallId>,
    /// Those of them that ended and cost nothing.
    over: Vec<CallId>,
    /// Where answers go, by chain.
    listeners: HashMap<(AgentId, u32), Listener>,
    listeners_begun: u64,
    /// Since when a batch is under way.
    writing_since: Option<Instant>,
    /// Why the last batch was not written.
    failure: Option<String>,
    /// A call's cost grew by enough to be written down now.
    observe_now: bool,
    /// Nothing is sold any more.
    is_closed: bool,
}

impl State {
    fn new(boot: BootId) -> Self {
        Self {
            boot,
            own_boots: vec![boot],
            purses: Purses::default(),
            calls: HashMap::new(),
            under_way: HashMap::new(),
            ended: VecDeque::new(),
            forgotten: Vec::new(),
            submitted: VecDeque::new(),
            awaited: HashSet::new(),
            over: Vec::new(),
            listeners: HashMap::new(),
            listeners_begun: 0,
            writing_since: None,
            failure: None,
            observe_now: false,
            is_closed: false,
        }
    }
}

fn new_boot() -> BootId {
    BootId(Uuid::now_v7().into_bytes())
}

enum Phase {
    Open(Arc<OpenCall>),
    Ended(Arc<Ended>),
}

/// A call that is over and waits for the database.
struct Ended {
    record: CallRecord,
    open: Arc<OpenCall>,
}

impl Books {
    /// Begins a boot in the database, ends those that died, and keeps the books in a task from
    /// then on.
    ///
    /// # Errors
    /// The database's.
    pub async fn start(
        store: Store,
        others: Others,
        keys: BookKeys,
        rules: BookRules,
        tasks: &Tasks,
    ) -> Result<Self, StoreError> {
        let start = Start { pace: Pace::default(), keys, rules, crash: None };
        Self::start_at(start, store, others, tasks).await
    }

    async fn start_at(start: Start, store: Store, others: Others, tasks: &Tasks) -> Result<Self, StoreError> {
        let boot = new_boot();
        store.replay(|| store.begin_boot(boot, unix_ms_now())).await?;
        let shared = Arc::new(Shared {
            store,
            pace: start.pace,
            keys: start.keys,
            rules: start.rules,
            crash: start.crash,
            state: Mutex::new(State::new(boot)),
            room: intake::room(),
            turn: tokio::sync::Mutex::new(boot),
            wake: Notify::new(),
        });
        if others == Others::None {
            shared.sweep(Duration::ZERO).await?;
        }
        let keeper = shared.clone();
        tasks.spawn_until_stop("books", keeper.keep(tasks.leaving(), tasks.stopping()));
        Ok(Self { shared })
    }

    /// The boot that calls are sold in now.
    pub fn boot(&self) -> BootId {
        self.shared.lock().boot
    }

    /// Sets an amount aside for a call that began at this time: all of it, from the account's
    /// balance and from every budget of the key, or nothing. Asks the database only where what
    /// this process has leased does not suffice.
    ///
    /// # Errors
    /// [`HoldError`]; never a wait of more than two seconds.
    pub async fn hold(
        &self,
        call: CallId,
        payer: &Payer,
        amount: NanoUsd,
        began_unix_ms: u64,
    ) -> Result<Hold, HoldError> {
        let held = self.shared.hold(call, payer, amount, began_unix_ms).await;
        if let Err(error) = &held {
            counter!("keyhaven_settlement_refusals_total", "reason" => error.name()).increment(1);
        }
        held
    }

    /// Takes what the call cost from what was set aside, and gives back the rest. It counts at
    /// once and is written soon; a call that is written already stays as it is.
    pub fn settle(&self, hold: Hold, record: CallRecord) {
        hold.settle(record);
    }

    /// What is known of a call.
    ///
    /// # Errors
    /// The database's.
    pub async fn record(&self, call: CallId) -> Result<Known, StoreError> {
        if let Some(known) = self.shared.recall(call) {
            return Ok(known);
        }
        let Some(json) = self.shared.store.call_json(call).await? else {
            return Ok(Known::Unknown);
        };
        let record = serde_json::from_str(&json).map_err(|_| StoreError::Damaged { column: "record" })?;
        let record = record::with_leaf(&self.shared.store, record).await?;
        Ok(Known::Over(Box::new(record)))
    }

    /// What an account has, as far as it is written. Calls under way are not subtracted.
    ///
    /// # Errors
    /// The database's.
    pub async fn balance(&self, account: AccountId) -> Result<NanoUsd, StoreError> {
        self.shared.store.balance(Side::Consumer(account)).await
    }

    /// What calls of a key have cost on this day, in this month and in all, as far as it is
    /// written.
    ///
    /// # Errors
    /// The database's.
    pub async fn spent(&self, key: ApiKeyId, now_unix_ms: u64) -> Result<[NanoUsd; 3], StoreError> {
        let mut spent = [NanoUsd::ZERO; 3];
        for (spent, period) in spent.iter_mut().zip(Period::of(now_unix_ms)) {
            *spent = self.shared.store.spent(key, period).await?;
        }
        Ok(spent)
    }

    /// Calls summed up by key and model, as far as they are written.
    ///
    /// # Errors
    /// The database's.
    pub async fn usage(&self, filter: &UsageFilter) -> Result<Vec<UsageRow>, StoreError> {
        self.shared.store.usage(filter).await
    }

    /// Calls that are over and not written yet.
    pub fn unwritten(&self) -> usize {
        self.shared.lock().ended.len()
    }

    /// What keeps the hub from selling calls, if anything does.
    pub fn trouble(&self) -> Option<String> {
        self.shared.lock().trouble()
    }
}

impl fmt::Debug for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("Books").field("calls", &state.calls.len()).field("unwritten", &state.ended.len()).finish()
    }
}

impl State {
    fn trouble(&self) -> Option<String> {
        if let Some(failure) = &self.failure {
            return Some(format!("what calls cost cannot be written down: {failure}"));
        }
        let stalled = self.writing_since.is_some_and(|since| since.elapsed() > STALL);
        stalled.then(|| "the database takes too long to write down what calls cost".to_owned())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn hold(
        self: &Arc<Self>,
        call: CallId,
        payer: &Payer,
        amount: NanoUsd,
        began_unix_ms: u64,
    ) -> Result<Hold, HoldError> {
        if payer.is_blocked {
            return Err(HoldError::Blocked);
        }
        let amount = amount.max(NanoUsd::ZERO);
        let limits = limits_of(payer, began_unix_ms);
        let deadline = Instant::now() + HOLD_TIME_MAX;
        loop {
            let now_unix_ms = unix_ms_now();
            let short = match self.take(call, payer.account, &limits, amount, now_unix_ms)? {
                Ok(hold) => return Ok(hold),
                Err(short) => short,
            };
            if short.is_dry && !short.is_elsewhere {
                return Err(HoldError::of(short.purse));
            }
            if Instant::now() >= deadline {
                return Err(HoldError::Unavailable);
            }
            if short.is_dry {
                tokio::time::sleep(ELSEWHERE_PAUSE).await;
            }
            match tokio::time::timeout_at(deadline, self.lease(&limits, amount)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(HoldError::Unavailable),
            }
        }
    }

    fn take(
        self: &Arc<Self>,
        call: CallId,
        account: AccountId,
        limits: &[Limit],
        amount: NanoUsd,
        now_unix_ms: u64,
    ) -> Result<Result<Hold, purses::Short>, HoldError> {
        let mut state = self.lock();
        if state.is_closed || state.trouble().is_some() || state.calls.len() >= CALLS_MAX {
            return Err(HoldError::Unavailable);
        }
        if state.calls.contains_key(&call) {
            error!(call.id = %call, "call {call} is held twice; the second is refused");
            return Err(HoldError::Unavailable);
        }
        if let Err(short) = state.purses.take(limits, amount, now_unix_ms) {
            return Ok(Err(short));
        }
        let open = Arc::new(OpenCall::new(account, limits.to_vec(), amount));
        state.calls.insert(call, Phase::Open(open.clone()));
        let is_low = state.purses.is_low();
        drop(state);
        if is_low {
            self.wake.notify_one();
        }
        Ok(Ok(Hold::new(self.clone(), call, open)))
    }

    fn recall(&self, call: CallId) -> Option<Known> {
        match self.lock().calls.get(&call)? {
            Phase::Open(open) => Some(Known::UnderWay(open.account)),
            Phase::Ended(ended) => Some(Known::Over(Box::new(ended.record.clone()))),
        }
    }
}

#[cfg(test)]
mod tests;
