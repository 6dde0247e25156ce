//! Waits until another process may have replaced the vault's file, without looking at it all
//! the time.
//!
//! Invariant: who begins to look out before each look at the file sees every change in the end,
//! whatever the system tells or keeps to itself.

#[cfg(target_os = "linux")]
use std::io;
use std::path::Path;
use std::time::Duration;

#[cfg(target_os = "linux")]
use rustix::fs::inotify;
#[cfg(target_os = "linux")]
use tokio::net::unix::pipe::Receiver;

/// How long a file is not looked at of whose changes the system tells. It does not tell of
/// those that other machines make.
#[cfg(target_os = "linux")]
const TOLD_INTERVAL: Duration = Duration::from_secs(30);

/// The same where the system tells nothing.
const UNTOLD_INTERVAL: Duration = Duration::from_secs(1);

/// A look-out for one change of the file that was there when it began.
pub struct Lookout {
    #[cfg(target_os = "linux")]
    notices: Option<Receiver>,
}

impl Lookout {
    /// Begins now. A file that cannot be watched is one to look at more often.
    pub fn begin(path: &Path) -> Self {
        #[cfg(not(target_os = "linux"))]
        let _ = path;
        Self {
            #[cfg(target_os = "linux")]
            notices: notices_of(path).ok(),
        }
    }

    /// Waits until it is time to look at the file.
    pub async fn wait(self) {
        #[cfg(target_os = "linux")]
        if let Some(notices) = &self.notices {
            // In time or too late, there is nothing to do but to look.
            let _ = tokio::time::timeout(TOLD_INTERVAL, notices.readable()).await;
            return;
        }
        tokio::time::sleep(UNTOLD_INTERVAL).await;
    }
}

/// Like a pipe, becomes readable when this very file is changed, replaced or removed.
#[cfg(target_os = "linux")]
fn notices_of(path: &Path) -> io::Result<Receiver> {
    let notices = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    // A file that is renamed over loses a name, which is told as a change of its attributes.
    let changes = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::ATTRIB
        | inotify::WatchFlags::MOVE_SELF
        | inotify::WatchFlags::DELETE_SELF;
    inotify::add_watch(&notices, path, changes)?;
    Receiver::from_owned_fd_unchecked(notices)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use keyhaven_daemon::files::write_atomically;

    use super::*;

    #[tokio::test]
    async fn the_system_tells_when_a_file_is_replaced_or_removed_and_not_when_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vault.json");
        write_atomically(&path, b"one", 0o600).unwrap();

        let notices = notices_of(&path).unwrap();
        std::fs::read(&path).unwrap();
        std::fs::write(dir.path().join("status.json"), b"beside it").unwrap();
        let unchanged = futures_util::FutureExt::now_or_never(notices.readable()).is_none();
        write_atomically(&path, b"two", 0o600).unwrap();
        told(&notices).await;
        let notices = notices_of(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        told(&notices).await;

        assert!(unchanged);
        assert!(notices_of(&path).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_of_which_nothing_is_told_is_looked_at_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vault.json");
        let begun = tokio::time::Instant::now();

        Lookout::begin(&path).wait().await;
        let absent = begun.elapsed();
        std::fs::write(&path, b"one").unwrap();
        Lookout::begin(&path).wait().await;

        assert_eq!((absent, begun.elapsed() - absent), (UNTOLD_INTERVAL, TOLD_INTERVAL));
    }

    async fn told(notices: &Receiver) {
        let told = tokio::time::timeout(Duration::from_secs(60), notices.readable()).await;
        told.expect("a change is told").unwrap();
    }
}
