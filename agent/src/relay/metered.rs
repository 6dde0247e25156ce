//! What a call costs, as this agent sees it: the answer metered as it leaves, and the
//! receipt for it.
//!
//! Invariant: a receipt speaks of the bytes that left, and there is at most one for a call.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::frame::Receipt;
use keyhaven_protocol::link::Sent;
use keyhaven_protocol::metering::Asked;
use keyhaven_protocol::metering::CallMeter;
use keyhaven_protocol::metering::Ending;
use keyhaven_protocol::metering::Figure;
use keyhaven_protocol::metering::WireMeter;
use keyhaven_protocol::metering::agreed_elapsed_ms;
use keyhaven_protocol::price::PriceTable;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::provider::endpoint::Metering;
use keyhaven_protocol::ticket::DEADLINE_MS_MAX;
use keyhaven_protocol::ticket::SignedTicket;
use keyhaven_protocol::usage::Doubt;

use super::upload::Upload;
use crate::prices::PriceStore;

/// The metering of one call; of one that is free it does nothing.
pub(super) struct Metered {
    call: Option<Box<Call>>,
}

struct Call {
    sale: Sale,
    meter: WireMeter,
}

/// By what the call is sold, and what was asked for.
struct Sale {
    order: SignedTicket,
    prices: Arc<PriceTable>,
    provider: Provider,
    upload: Option<Upload>,
}

impl Metered {
    /// The metering of the call that begins so, by this order.
    pub(super) fn begin(open: &OpenHead, order: Option<SignedTicket>, store: &PriceStore) -> Result<Self, Abort> {
        let endpoint = Endpoint::from_number(open.endpoint);
        let form = endpoint.map(|endpoint| (endpoint, endpoint.metering()));
        let (Some(order), Some((endpoint, Metering::Metered(form)))) = (order, form) else {
            return Ok(Self { call: None });
        };
        let (version, hash) = (order.ticket().price_version, &order.ticket().price_hash);
        let prices = store.table(version, hash).ok_or_else(|| Abort::new(AbortReason::PricesUnknown))?;
        let sale = Sale { order, prices, provider: endpoint.provider(), upload: None };
        Ok(Self { call: Some(Box::new(Call { sale, meter: WireMeter::new(CallMeter::new(form)) })) })
    }

    /// For how long the call may last.
    pub(super) fn time_max(&self) -> Duration {
        let ordered = self.call.as_ref().map_or(DEADLINE_MS_MAX, |call| call.sale.order.ticket().deadline_ms);
        Duration::from_millis(ordered.into())
    }

    /// The model that it is sold as; none of a call that is free.
    pub(super) fn sold_as(&self) -> Option<&str> {
        self.call.as_ref().map(|call| call.sale.order.ticket().model.as_str())
    }

    /// The request is on its way.
    pub(super) fn uploads(&mut self, upload: &Upload) {
        if let Some(call) = &mut self.call {
            call.sale.upload = Some(upload.clone());
        }
    }

    /// The answer's head is about to be sent, with these headers.
    pub(super) fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        if let Some(call) = &mut self.call {
            call.meter.queue_head(status, headers);
        }
    }

    /// A piece of the answer is about to be sent.
    pub(super) fn piece(&mut self, stream: &LinkStream, piece: &Bytes) {
        if let Some(call) = &mut self.call {
            call.follow(stream.sent());
            call.meter.queue(piece.clone());
        }
    }

    /// The answer is about to end so: its receipt leaves with its end.
    pub(super) fn ends(&mut self, stream: &LinkStream, ending: Ending) {
        let Some(call) = &mut self.call else { return };
        call.follow(stream.sent());
        let figure = call.sale.asked(|asked| call.meter.forecast(asked, ending));
        if let Some(receipt) = figure.and_then(|figure| call.sale.receipt(figure)) {
            stream.leave_receipt(receipt);
        }
    }

    /// The call is over for the relay: sees to it that the hub gets its receipt. Waits so
    /// long at most for what is queued to leave.
    pub(super) async fn settle(self, stream: &LinkStream, wait_max: Duration) {
        let Some(call) = self.call else { return };
        let left = tokio::time::timeout(wait_max, poll_fn(|cx| stream.poll_sent_all(cx))).await;
        let sent = stream.sent();
        if left.is_err() || sent.receipt {
            // A hub that does not read is not waited for: it has no use for a receipt either.
            return;
        }
        if let Some(receipt) = (*call).settled(sent, stream.abort_received().as_ref()) {
            stream.send_receipt(receipt);
        }
    }
}

impl Call {
    fn follow(&mut self, sent: Sent) {
        if sent.head {
            self.meter.left(sent.body_bytes);
        }
    }

    /// The receipt for what left; none when nothing is owed because there was no answer.
    fn settled(mut self, sent: Sent, abort: Option<&Abort>) -> Option<Bytes> {
        self.follow(sent);
        let upload = self.sale.upload.as_ref();
        let request = upload.and_then(Upload::sent);
        let mut believed = true;
        let ending = match abort.map(|abort| (abort.reason, abort.elapsed_ms)) {
            _ if sent.end => Ending::Complete,
            Some((AbortReason::LinkLost, _)) => return None,
            Some((AbortReason::ConsumerGone, said_ms)) => {
                let own = request.as_ref().map(|request| request.at.elapsed().as_millis());
                let own_ms = own.map_or(0, |own| u32::try_from(own).unwrap_or(u32::MAX));
                let (elapsed_ms, fits) = agreed_elapsed_ms(own_ms, said_ms);
                believed = fits || request.is_none();
                Ending::ConsumerLeft { elapsed_ms }
            }
            Some((AbortReason::RequestBroken, _)) if request.is_none() => Ending::NotSent,
            _ if !sent.head => return None,
            _ => Ending::Broke,
        };
        let Self { sale, meter } = self;
        let mut figure = sale.asked(|asked| meter.finish(asked, ending));
        if !believed {
            figure.doubts.add(Doubt::OwnClock);
        }
        sale.receipt(figure)
    }
}

impl Sale {
    fn asked<T>(&self, metering: impl FnOnce(&Asked<'_>) -> T) -> T {
        let request = self.upload.as_ref().and_then(Upload::sent);
        metering(&Asked {
            prices: &self.prices,
            provider: self.provider,
            // The request was found to ask for this one, or does not leave as a whole.
            model: &self.order.ticket().model,
            demand: request.as_ref().map(|request| &request.demand),
            ceiling: self.order.ticket().ceiling,
        })
    }

    fn receipt(&self, figure: Figure) -> Option<Bytes> {
        // Figures are never below 0, which is all that could go wrong.
        Receipt::new(self.order.ticket(), figure).encode().ok()
    }
}
