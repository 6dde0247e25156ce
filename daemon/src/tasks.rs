//! Every task has an owner and an end.
//!
//! Invariant: nothing that was spawned here is still wanted once `shut_down`
//! returned; what still runs then was named in the log.

use futures_util::FutureExt;
use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use tracing::error;
use tracing::warn;

/// How long a task may take to end after it was told to stop.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// The tasks of one daemon and the signals they obey: *drain* (finish what was
/// begun, begin nothing) and then *stop*; before both, *leave*, when another
/// process takes what is new. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    work: TaskTracker,
    services: TaskTracker,
    leaving: CancellationToken,
    draining: CancellationToken,
    stopping: CancellationToken,
}

impl Tasks {
    /// No tasks yet, and no signal given.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` as a task of its own, within the current tracing span. It
    /// must end by itself once `draining` is cancelled and its work is done. A
    /// panic ends that task alone and is logged under `name`.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        begin(name, self.work.track_future(future));
    }

    /// Runs what serves the others to the last, such as the admin listener: no
    /// drain waits for it, and it must end once `stopping` is cancelled.
    pub fn spawn_until_stop<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        begin(name, self.services.track_future(future));
    }

    /// Leaves connections that come from now on to another process. What comes on
    /// those that are here is still served: it cannot go elsewhere.
    pub fn leave(&self) {
        self.leaving.cancel();
    }

    /// Cancelled when new connections are left to others, at the latest with
    /// `draining`.
    pub fn leaving(&self) -> CancellationToken {
        self.leaving.clone()
    }

    /// Cancelled when new work is to be refused and old work finished.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Cancelled when the grace period is over: end now.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// How many tasks have not ended.
    pub fn running(&self) -> usize {
        self.work.len() + self.services.len()
    }

    /// Drains, waits for the work up to `grace`, then stops everything and waits
    /// again, but not for ever: a task that does not stop ends with the runtime.
    pub async fn shut_down(&self, grace: Duration) {
        self.work.close();
        self.services.close();
        self.draining.cancel();
        self.leaving.cancel();
        // Whether the grace period sufficed makes no difference to what follows.
        let _ = timeout(grace, self.work.wait()).await;
        self.stopping.cancel();
        let all_ended = async { tokio::join!(self.work.wait(), self.services.wait()) };
        if timeout(STOP_TIME_MAX, all_ended).await.is_err() {
            warn!(tasks.running = self.running(), "{} tasks did not stop in time", self.running());
        }
    }

    /// Waits until the process is asked to end, by SIGTERM or SIGINT. Call it
    /// again for the second request, which means: now.
    pub async fn signals() {
        if let Err(failed) = next_signal().await {
            error!("signals cannot be received: {failed}");
            std::future::pending::<()>().await;
        }
    }
}

fn begin<F>(name: &'static str, future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    // Adaptors and no `async` block: a block keeps a second place for what it awaits, and a
    // task would be twice as large for all of its life.
    let guarded = AssertUnwindSafe(future).catch_unwind().map(move |ended| {
        if let Err(panic) = ended {
            error!(task.name = name, "task {name} panicked: {}", message_of(&*panic));
        }
    });
    #[expect(clippy::disallowed_methods, reason = "the one place where tasks begin")]
    tokio::spawn(guarded.in_current_span());
}

#[cfg(unix)]
async fn next_signal() -> std::io::Result<()> {
    use tokio::signal::unix::SignalKind;
    use tokio::signal::unix::signal;

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn next_signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();

    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering;
    use tokio::time::Instant;

    #[tokio::test]
    async fn draining_lets_work_finish_before_anything_is_stopped() {
        let tasks = Tasks::new();
        let finished = Arc::new(AtomicBool::new(false));
        let draining = tasks.draining();
        let stopping = tasks.stopping();
        let seen = finished.clone();
        tasks.spawn("worker", async move {
            draining.cancelled().await;
            tokio::task::yield_now().await;
            seen.store(!stopping.is_cancelled(), Ordering::SeqCst);
        });

        tasks.shut_down(Duration::from_secs(60)).await;

        assert!(finished.load(Ordering::SeqCst));
        assert!(tasks.stopping().is_cancelled());
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_draining_is_stopped_after_the_grace_period() {
        let tasks = Tasks::new();
        let stopping = tasks.stopping();
        tasks.spawn("stubborn", async move { stopping.cancelled().await });
        let start = Instant::now();

        tasks.shut_down(Duration::from_secs(10)).await;

        assert_eq!(start.elapsed().as_secs(), 10);
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_runs_to_the_last_and_no_drain_waits_for_it() {
        let tasks = Tasks::new();
        let stopping = tasks.stopping();
        tasks.spawn_until_stop("service", async move { stopping.cancelled().await });
        let start = Instant::now();

        tasks.shut_down(Duration::from_secs(10)).await;

        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_everything_cannot_hold_the_process() {
        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending());

        tasks.shut_down(Duration::from_secs(1)).await;

        assert_eq!(tasks.running(), 1);
    }

    #[tokio::test]
    async fn a_panic_ends_one_task_and_is_logged_once() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let tasks = Tasks::new();
        tasks.spawn("fragile", async { panic!("broken on purpose") });
        let survivor = tasks.draining();
        tasks.spawn("survivor", async move { survivor.cancelled().await });

        tasks.shut_down(Duration::from_secs(60)).await;

        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("task fragile panicked: broken on purpose").count(), 1, "{text}");
        assert!(text.contains("ERROR"));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_termination_signal_is_received() {
        let received = Tasks::signals();
        tokio::pin!(received);
        // The first poll installs the handler; without it the signal would end the test.
        assert!(futures_util::poll!(received.as_mut()).is_pending());

        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();

        tokio::time::timeout(Duration::from_secs(10), received).await.unwrap();
    }

    #[derive(Debug, Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
