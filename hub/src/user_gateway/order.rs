//! A call that is about to be sold: at which prices, for how much at most, on whose money.
//!
//! Invariant: no call that has a price leaves before the most that it may cost is set aside.

use std::sync::Arc;

use http::HeaderValue;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::demand::Demand;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::metering::Asked;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::provider::endpoint::Metering;
use keyhaven_protocol::provider::native_error::ErrorShape;
use keyhaven_protocol::quote::BodyKnown;
use keyhaven_protocol::quote::QuoteError;
use keyhaven_protocol::settle::Shares;
use keyhaven_protocol::usage::Form;

use super::UserGateway;
use super::refusal::Refusal;
use crate::key_policy::Payer;
use crate::pricing::board::Priced;
use crate::settlement::Hold;
use crate::settlement::Once;
use crate::settlement::Repeated;
use crate::settlement::Sale;

/// Answers of the longest kind that a realtime session is held for.
const SESSION_ANSWERS: i64 = 4;

/// The longest idempotency key.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// What is wanted, and by whom.
pub(super) struct Wish<'a> {
    pub(super) call: CallId,
    pub(super) began_unix_ms: u64,
    pub(super) payer: &'a Arc<Payer>,
    pub(super) shape: ErrorShape,
    pub(super) endpoint: Endpoint,
    /// As the consumer names it.
    pub(super) model: &'a str,
    /// The model whose prices hold: of a deployment, the one behind it.
    pub(super) priced_as: &'a str,
    pub(super) demand: &'a Demand,
    pub(super) body: BodyKnown,
    /// As the consumer sent it.
    pub(super) idempotency_key: Option<&'a HeaderValue>,
}

/// A call whose money is set aside.
pub(super) struct Order {
    call: CallId,
    began_unix_ms: u64,
    payer: Arc<Payer>,
    priced: Arc<Priced>,
    endpoint: Endpoint,
    form: Form,
    model: String,
    priced_as: String,
    zone: Ppm,
    ceiling: NanoUsd,
    /// What has to be left of it for one more answer of a session.
    reserve: NanoUsd,
    hold: Hold,
    /// Keeps the consumer's idempotency key for this call until it is over.
    _once: Option<Once>,
}

impl Order {
    /// Sets the money aside; none for a call that costs nothing.
    ///
    /// # Errors
    /// When the call is not for sale, not to this key, or there is not enough money.
    pub(super) async fn place(gateway: &UserGateway, wish: Wish<'_>) -> Result<Option<Box<Self>>, Refusal> {
        let Wish { call, began_unix_ms, payer, shape, endpoint, model, priced_as, demand, body, idempotency_key } =
            wish;
        let refused = |code| Refusal::new(shape, code);
        payer.may_use(model).map_err(refused)?;
        let Metering::Metered(form) = endpoint.metering() else { return Ok(None) };
        if model.is_empty() {
            let why = "`model` is missing; it says what the call costs".to_owned();
            return Err(Refusal::with_message(shape, ErrorCode::RequestMalformed, why));
        }
        let priced = gateway.prices.in_force(unix_ms_now()).ok_or_else(|| refused(ErrorCode::PricesNotSet))?;
        let zone = gateway.prices.zone(payer.zone).ok_or_else(|| refused(ErrorCode::PricesNotSet))?;
        let sku = priced.table.sku_for(endpoint.provider(), priced_as);
        let sku = sku.ok_or_else(|| refused(ErrorCode::ModelNotPriced))?;
        let one = sku.ceiling(form, demand, body).map_err(|error| unquoted(shape, error))?;
        let (ceiling, reserve) = match form {
            Form::Realtime => (NanoUsd(one.0.saturating_mul(SESSION_ANSWERS)), one),
            Form::Completions
            | Form::DeepSeekCompletions
            | Form::Responses
            | Form::Embeddings
            | Form::Images
            | Form::Speech
            | Form::Transcription
            | Form::Messages => (one, NanoUsd::ZERO),
        };
        let once = match idempotency_key {
            Some(key) => Some(once(gateway, payer, key, call, shape).await?),
            None => None,
        };
        let most = ceiling.share_rounded_up(zone).map_err(|too_much| unquoted(shape, too_much.into()))?;
        let hold = gateway.books.hold(call, payer, most, began_unix_ms).await;
        let hold = hold.map_err(|error| refused(error.code()))?;
        Ok(Some(Box::new(Self {
            call,
            began_unix_ms,
            payer: payer.clone(),
            endpoint,
            form,
            model: model.to_owned(),
            priced_as: priced_as.to_owned(),
            zone,
            ceiling,
            reserve,
            hold,
            _once: once,
            priced: priced.clone(),
        })))
    }

    /// The form of the answer.
    pub(super) const fn form(&self) -> Form {
        self.form
    }

    /// The call.
    pub(super) const fn call(&self) -> CallId {
        self.call
    }

    /// Who pays.
    pub(super) fn payer(&self) -> &Payer {
        &self.payer
    }

    /// Where it goes.
    pub(super) const fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The model whose prices hold.
    pub(super) fn priced_as(&self) -> &str {
        &self.priced_as
    }

    /// By which table.
    pub(super) fn priced(&self) -> &Priced {
        &self.priced
    }

    /// What the consumer pays of the list price.
    pub(super) const fn zone(&self) -> Ppm {
        self.zone
    }

    /// The most that it may cost, at list prices.
    pub(super) const fn ceiling(&self) -> NanoUsd {
        self.ceiling
    }

    /// What is set aside of the consumer's money.
    pub(super) fn held(&self) -> NanoUsd {
        self.hold.amount()
    }

    /// What a figure depends on besides the answer.
    pub(super) fn asked<'a>(&'a self, demand: Option<&'a Demand>) -> Asked<'a> {
        Asked {
            prices: &self.priced.table,
            provider: self.endpoint.provider(),
            model: &self.priced_as,
            demand,
            ceiling: self.ceiling,
        }
    }

    /// What the rest of the request must fit into.
    pub(super) fn limit(&self) -> Limit {
        let Self { priced, endpoint, form, priced_as, ceiling, .. } = self;
        let (priced, provider, priced_as) = (priced.clone(), endpoint.provider(), priced_as.clone());
        Limit { priced, provider, form: *form, priced_as, ceiling: *ceiling }
    }

    /// An agent gets the call now.
    pub(super) fn dispatched(&mut self, agent: AgentId, attempt: u8, tier: Ppm) -> Sale {
        let sale = Sale {
            call: self.call,
            account: self.payer.account,
            key: self.payer.key,
            agent,
            attempt: attempt.into(),
            provider: self.endpoint.provider(),
            endpoint: format!("{} {}", self.endpoint.method(), self.endpoint.template()),
            model: self.model.clone(),
            began_unix_ms: self.began_unix_ms,
            price_version: self.priced.version(),
            price_hash: self.priced.hash(),
            zone: self.payer.zone,
            shares: Shares { zone: self.zone, tier },
            held: self.hold.amount(),
        };
        self.hold.dispatched(sale.clone());
        sale
    }

    /// The agent has said for certain that it did not serve it.
    pub(super) fn withdrawn(&mut self) {
        self.hold.withdrawn();
    }

    /// What the call has cost so far at list prices.
    pub(super) fn observed(&self, list_so_far: NanoUsd) {
        self.hold.observed(list_so_far);
    }

    /// Whether what is left of the money may not suffice for one more answer of a session.
    pub(super) fn is_used_up(&self, list_so_far: NanoUsd) -> bool {
        self.reserve > NanoUsd::ZERO && list_so_far.0.saturating_add(self.reserve.0) > self.ceiling.0
    }

    /// The money, to be settled.
    pub(super) fn into_hold(self) -> Hold {
        self.hold
    }
}

/// What a request was sold for that had not come in full.
pub(super) struct Limit {
    priced: Arc<Priced>,
    provider: Provider,
    form: Form,
    priced_as: String,
    ceiling: NanoUsd,
}

impl Limit {
    /// Whether what the whole request asks for is within it.
    ///
    /// # Errors
    /// When it is not, or has no price.
    pub(super) fn holds(&self, demand: &Demand) -> Result<(), OverHold> {
        let sku = self.priced.table.sku_for(self.provider, &self.priced_as).ok_or(OverHold::Dearer)?;
        let ceiling = sku.ceiling(self.form, demand, BodyKnown::Whole)?;
        if ceiling <= self.ceiling { Ok(()) } else { Err(OverHold::Dearer) }
    }
}

/// Why a request that was sold while it was still coming is not completed.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum OverHold {
    /// It asks for more than what was set aside when its begin was known.
    #[error(
        "the request asks for more than could be known when it was passed on: put `n`, `best_of`, the bound on the output and `service_tier` before the messages"
    )]
    Dearer,
    /// It has no bound, or no price.
    #[error(transparent)]
    Quote(#[from] QuoteError),
}

async fn once(
    gateway: &UserGateway,
    payer: &Payer,
    key: &HeaderValue,
    call: CallId,
    shape: ErrorShape,
) -> Result<Once, Refusal> {
    if !(1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) {
        let why = format!("`idempotency-key` is empty or longer than {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
        return Err(Refusal::with_message(shape, ErrorCode::RequestMalformed, why));
    }
    gateway.books.once(payer.account, key.as_bytes(), call).await.map_err(|repeated| {
        let why = match repeated {
            Repeated::UnderWay(call) => format!("call {call} has this idempotency key and is under way"),
            Repeated::Over(record) => {
                let (call, status, cost) = (record.sale.call, record.status, record.settled.charge);
                format!("call {call} had this idempotency key, was answered with {status} and cost {cost}")
            }
            Repeated::Lost(call) => {
                format!("call {call} had this idempotency key, and the hub stopped before it knew what became of it")
            }
            Repeated::Unavailable => return Refusal::new(shape, ErrorCode::BooksUnavailable),
        };
        Refusal::with_message(shape, ErrorCode::CallRepeated, why)
    })
}

fn unquoted(shape: ErrorShape, error: QuoteError) -> Refusal {
    Refusal::with_message(shape, error.code(), error.to_string())
}
