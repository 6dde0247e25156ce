//! Where a call goes: the one endpoint that is meant and a seat for it, now or when an
//! expected agent is back.
//!
//! Invariant: a call waits only for an agent that is expected, and a seat that was tried is
//! not given again.

use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::provider::route::Candidate;

use super::UserGateway;
use super::attempt::Call;
use super::refusal::Refusal;
use crate::agent_gateway::Seat;
use crate::dispatch;
use crate::dispatch::Wanted;

/// Nobody serves the call.
struct Unplaced {
    refusal: Refusal,
    /// An agent that may is expected.
    expected: bool,
}

/// The one endpoint that is meant.
///
/// # Errors
/// When that is not clear, or in time.
pub(super) async fn endpoint_of(gateway: &UserGateway, call: &Call<'_>) -> Result<Candidate, Refusal> {
    place(gateway, call, || resolve(gateway, call)).await
}

/// The first seat for it.
///
/// # Errors
/// When nobody serves the call, or in time.
pub(super) async fn first_seat(gateway: &UserGateway, call: &Call<'_>, candidate: &Candidate) -> Result<Seat, Refusal> {
    place(gateway, call, || seat_for(gateway, call, candidate)).await
}

/// A seat that was not tried yet. If the last one's link is gone, its agent is waited for.
pub(super) async fn another_seat(
    gateway: &UserGateway,
    call: &Call<'_>,
    candidate: &Candidate,
    tried: &[Seat],
    link_is_gone: bool,
) -> Option<Seat> {
    let look = || choose(gateway, call, candidate, tried).ok_or(());
    match look() {
        Err(()) if link_is_gone => {
            gateway.waiting.until(gateway.roster.changed(), &gateway.tasks.draining(), look).await.ok()
        }
        chosen => chosen.ok(),
    }
}

/// Looks now, and again as long as an agent is expected.
async fn place<T>(
    gateway: &UserGateway,
    call: &Call<'_>,
    look: impl Fn() -> Result<T, Unplaced>,
) -> Result<T, Refusal> {
    let draining = gateway.tasks.draining();
    let mut first = look();
    if first.as_ref().is_err_and(|unplaced| !unplaced.expected) {
        // Who was expected may have come between the two questions.
        first = look();
    }
    let placed = match first {
        Err(unplaced) if unplaced.expected => gateway.waiting.until(gateway.roster.changed(), &draining, look).await,
        placed => placed,
    };
    placed.map_err(|unplaced| {
        if unplaced.expected && draining.is_cancelled() {
            return Refusal::new(call.route.shape, ErrorCode::HubDraining).closing();
        }
        unplaced.refusal
    })
}

fn seat_for(gateway: &UserGateway, call: &Call<'_>, candidate: &Candidate) -> Result<Seat, Unplaced> {
    choose(gateway, call, candidate, &[]).ok_or_else(|| {
        let provider = candidate.endpoint.provider();
        // Somebody offers the vendor, only not this deployment or resource: that is final.
        let code = if gateway.roster.offers(provider) { ErrorCode::ModelUnknown } else { ErrorCode::NoAgent };
        Unplaced { refusal: Refusal::new(call.route.shape, code), expected: gateway.roster.expects(provider) }
    })
}

fn resolve(gateway: &UserGateway, call: &Call<'_>) -> Result<Candidate, Unplaced> {
    let route = call.route;
    if call.model.is_none() && route.candidates.len() > 1 {
        let why = "`model` is missing; it says which vendor is meant".to_owned();
        let refusal = Refusal::with_message(route.shape, ErrorCode::RequestMalformed, why);
        return Err(Unplaced { refusal, expected: false });
    }
    let listed = |provider: Provider, model: &str| gateway.roster.lists(provider, model);
    route.resolve(call.model.as_deref(), listed).map_err(|error| {
        // Whose model it is may be known as soon as somebody lists it.
        let mut providers = route.candidates.iter().map(|candidate| candidate.endpoint.provider());
        let expected = providers.any(|provider| gateway.roster.expects(provider));
        Unplaced { refusal: Refusal::route(&error), expected }
    })
}

fn choose(gateway: &UserGateway, call: &Call<'_>, candidate: &Candidate, tried: &[Seat]) -> Option<Seat> {
    let model = candidate.parameter.as_deref().or(call.model.as_deref());
    let resource = call.route.azure_resource.as_deref();
    // Once it is sold, it stays with the model that it was sold as.
    let priced_as = tried.first().zip(model).map(|(first, model)| first.priced_as(model));
    let wanted = Wanted { provider: candidate.endpoint.provider(), resource, model, priced_as, tried };
    let seat = dispatch::choose(&gateway.roster, wanted)?;
    // A seat that lists other models would answer that this one does not exist, which is
    // worse than what the seat that lists it said.
    let lists = |seat: &Seat| model.is_some_and(|model| seat.models.iter().any(|listed| &*listed.id == model));
    let falls_short = tried.first().is_some_and(|first| lists(first) && !seat.models.is_empty() && !lists(&seat));
    (!falls_short).then_some(seat)
}
