//! The admin listener: is it alive, is it ready and if not why, its metrics.
//!
//! Invariant: nothing served here needs the listener that consumers use, and a
//! client that dawdles holds one of few places for a bounded time.

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::response::Response;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::Matcher;
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_exporter_prometheus::PrometheusHandle;
use metrics_exporter_prometheus::PrometheusRecorder;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use tracing::warn;

use crate::tasks::Tasks;

const CONNECTIONS_MAX: usize = 64;
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);
/// Histograms keep every sample until somebody folds them.
const METRICS_FOLD_EVERY: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Upper bounds of histograms that end in `_seconds`.
const SECONDS_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Upper bounds of histograms that end in `_bytes`.
const BYTES_BUCKETS: &[f64] =
    &[256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0];

/// Whether a daemon takes work, and what is in the way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Readiness {
    reasons: Vec<String>,
}

impl Readiness {
    /// Nothing is in the way.
    pub fn ready() -> Self {
        Self::default()
    }

    /// This is in the way.
    pub fn not_ready(reason: impl Into<String>) -> Self {
        Self::ready().and(reason)
    }

    /// This is in the way as well.
    pub fn and(mut self, reason: impl Into<String>) -> Self {
        self.reasons.push(reason.into());
        self
    }

    /// Whether nothing is in the way.
    pub fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }

    /// What is in the way.
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }
}

/// Makes this process's metrics end up in the returned handle. Only a `main`
/// calls it, once: what is recorded after a second call stays with the first.
pub fn install_metrics() -> PrometheusHandle {
    let recorder = recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        warn!("metrics were installed twice; the second handle stays empty");
    }
    handle
}

/// A handle that no metric reaches, for a daemon inside a test.
pub fn detached_metrics() -> PrometheusHandle {
    recorder().handle()
}

/// What `/metrics` says. Clones say the same.
#[derive(Clone)]
pub struct Metrics {
    recorded: PrometheusHandle,
    more: Arc<dyn Fn() -> String + Send + Sync>,
}

impl Metrics {
    /// What was recorded.
    pub fn new(recorded: PrometheusHandle) -> Self {
        Self { recorded, more: Arc::new(String::new) }
    }

    /// And besides it what this makes at every question, in Prometheus' text format: series
    /// that come and go, which a recorder would keep for ever.
    #[must_use]
    pub fn with(self, more: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { more: Arc::new(more), ..self }
    }
}

/// Serves `/livez`, `/readyz`, `/metrics` and `extra` until the tasks are told
/// to stop, or to leave what is new to another process. While they drain, the
/// daemon is alive but not ready. Run it by
/// `Tasks::spawn_until_stop`.
pub async fn serve<R>(listener: TcpListener, extra: Router, ready: R, metrics: Metrics, tasks: &Tasks)
where
    R: Fn() -> Readiness + Send + Sync + Clone + 'static,
{
    let router = router(extra, ready, metrics.clone(), tasks.draining());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (draining, leaving, stopping) = (tasks.draining(), tasks.leaving(), tasks.stopping());
    let left_to_another = async {
        leaving.cancelled().await;
        if draining.is_cancelled() {
            // Nobody else would answer: how the drain goes is worth asking.
            std::future::pending::<()>().await;
        }
    };
    let mut left_to_another = std::pin::pin!(left_to_another);
    let mut fold = tokio::time::interval(METRICS_FOLD_EVERY);

    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            () = left_to_another.as_mut() => return,
            _ = fold.tick() => metrics.recorded.run_upkeep(),
            (stream, place) = accept(&listener, &places) => {
                tasks.spawn_until_stop("admin-connection", serve_one(stream, router.clone(), place, stopping.clone()));
            }
        }
    }
}

fn recorder() -> PrometheusRecorder {
    let builder = PrometheusBuilder::new();
    let builder = builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS);
    let builder =
        builder.and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), BYTES_BUCKETS));

    builder.expect("both lists of buckets have entries").build_recorder()
}

fn router<R>(extra: Router, ready: R, metrics: Metrics, draining: CancellationToken) -> Router
where
    R: Fn() -> Readiness + Send + Sync + Clone + 'static,
{
    let readiness = move || {
        let readiness = ready();
        if draining.is_cancelled() { readiness.and("it drains and takes no new work") } else { readiness }
    };

    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(async move || readyz(&readiness())))
        .route("/metrics", get(render_metrics).with_state(metrics))
        .merge(extra)
}

fn readyz(readiness: &Readiness) -> Response {
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ready": readiness.is_ready(), "reasons": readiness.reasons() });

    (status, Json(body)).into_response()
}

async fn render_metrics(State(metrics): State<Metrics>) -> Response {
    let text = metrics.recorded.render() + &(metrics.more)();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Takes the place before the connection: one that finds no place waits in the
/// kernel's queue. Safe to drop half-way, since accepting is one step.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let place = places.clone().acquire_owned().await.expect("nobody closes the semaphore");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                // Out of handles, most likely: they come back when others end.
                warn!("admin listener cannot accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one(stream: TcpStream, router: Router, _place: OwnedSemaphorePermit, stopping: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));

    tokio::select! {
        biased;
        () = stopping.cancelled() => {}
        served = tokio::time::timeout(CONNECTION_TIME_MAX, connection) => {
            if let Ok(Err(error)) = served {
                debug!("admin connection ended: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering;
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_ready_daemon_says_so_and_one_that_is_not_says_why() {
        let open = Arc::new(AtomicBool::new(true));
        let seen = open.clone();
        let ready = move || match seen.load(Ordering::SeqCst) {
            true => Readiness::ready(),
            false => Readiness::not_ready("the store is closed"),
        };
        let (address, tasks) = start(Router::new(), ready).await;

        let before = get(address, "/readyz").await;
        open.store(false, Ordering::SeqCst);
        let after = get(address, "/readyz").await;

        assert!(before.starts_with("HTTP/1.1 200 ") && before.contains(r#""ready":true"#), "{before}");
        assert!(after.starts_with("HTTP/1.1 503 ") && after.contains(r#"["the store is closed"]"#), "{after}");
        tasks.shut_down(Duration::from_secs(60)).await;
    }

    #[tokio::test]
    async fn a_draining_daemon_is_alive_but_not_ready() {
        let (address, tasks) = start(Router::new(), Readiness::ready).await;
        tasks.draining().cancel();

        let live = get(address, "/livez").await;
        let ready = get(address, "/readyz").await;

        assert!(live.starts_with("HTTP/1.1 200 "), "{live}");
        assert!(ready.starts_with("HTTP/1.1 503 ") && ready.contains("drains"), "{ready}");
        tasks.shut_down(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn metrics_are_rendered_with_the_buckets_of_their_unit() {
        let recorder = recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("keyhaven_test_wait_seconds").record(0.002);
            metrics::counter!("keyhaven_test_calls_total").increment(3);
        });
        let asked = AtomicU64::new(0);
        let metrics = Metrics::new(handle)
            .with(move || format!("keyhaven_test_asked_total {}\n", asked.fetch_add(1, Ordering::SeqCst)));
        let (address, tasks) = start_with(Router::new(), Readiness::ready, metrics).await;

        get(address, "/metrics").await;
        let text = get(address, "/metrics").await;

        assert!(text.ends_with("keyhaven_test_asked_total 1\n"), "what comes and goes is asked for each time: {text}");
        assert!(text.contains("keyhaven_test_calls_total 3"), "{text}");
        assert!(text.contains(r#"keyhaven_test_wait_seconds_bucket{le="0.0025"} 1"#), "{text}");
        assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
        tasks.shut_down(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn extra_routes_are_served_beside_the_fixed_ones() {
        let extra = Router::new().route("/agents", axum::routing::get(async || "two"));
        let (address, tasks) = start(extra, Readiness::ready).await;

        let there = get(address, "/agents").await;
        let absent = get(address, "/nowhere").await;

        assert!(there.ends_with("two"), "{there}");
        assert!(absent.starts_with("HTTP/1.1 404 "), "{absent}");
        tasks.shut_down(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn stopping_ends_the_listener_and_its_idle_connections() {
        let (address, tasks) = start(Router::new(), Readiness::ready).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        get(address, "/livez").await;

        tasks.shut_down(Duration::ZERO).await;

        assert_eq!(tasks.running(), 0);
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }

    async fn start<R>(extra: Router, ready: R) -> (SocketAddr, Tasks)
    where
        R: Fn() -> Readiness + Send + Sync + Clone + 'static,
    {
        start_with(extra, ready, Metrics::new(detached_metrics())).await
    }

    async fn start_with<R>(extra: Router, ready: R, metrics: Metrics) -> (SocketAddr, Tasks)
    where
        R: Fn() -> Readiness + Send + Sync + Clone + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        let owned = tasks.clone();
        tasks.spawn_until_stop("admin", async move { serve(listener, extra, ready, metrics, &owned).await });
        (address, tasks)
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}
