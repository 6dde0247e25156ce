//! Where the running hub listens: `listening.json` in its data directory, for the commands
//! beside it. With port 0 in the configuration nothing else knows.
//!
//! Invariant: the file is written when every listener is bound and removed at an orderly
//! end; what a killed hub leaves behind names addresses where nobody answers.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;

use keyhaven_daemon::files::write_atomically;
use serde::Deserialize;
use serde::Serialize;

use crate::config::Config;

/// The file in the data directory.
pub const LISTENING_FILE: &str = "listening.json";

const SCHEMA: &str = "keyhaven/hub-listening/v1";

/// The addresses of a hub's listeners, ports chosen by the system included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    schema: String,
    /// The hub's process.
    pub pid: u32,
    /// Where consumers are served.
    pub consumer: SocketAddr,
    /// Where agents are served.
    pub tunnel: SocketAddr,
    /// Where health, metrics and status are.
    pub admin: SocketAddr,
}

impl Listening {
    /// What this process listens on.
    pub fn here(consumer: SocketAddr, tunnel: SocketAddr, admin: SocketAddr) -> Self {
        Self { schema: SCHEMA.to_owned(), pid: std::process::id(), consumer, tunnel, admin }
    }

    /// Puts the addresses in use in the place of every port 0.
    pub fn fill_in(&self, config: &mut Config) {
        let listens = [
            (&mut config.consumer.listen, self.consumer),
            (&mut config.tunnel.listen, self.tunnel),
            (&mut config.admin.listen, self.admin),
        ];
        for (configured, used) in listens {
            if configured.port() == 0 {
                *configured = used;
            }
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When the data directory cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let mut json = serde_json::to_vec(self)?;
        json.push(b'\n');
        write_atomically(&file_path(dir), &json, 0o600)
    }

    /// What the hub of this data directory last wrote; `None` if it ended in order.
    ///
    /// # Errors
    /// When there is a file that cannot be read.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(file_path(dir)) {
            Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the file, at an orderly end.
    ///
    /// # Errors
    /// When the data directory cannot be written.
    pub fn remove(dir: &Path) -> io::Result<()> {
        std::fs::remove_file(file_path(dir))
    }
}

/// Its place in a data directory.
pub fn file_path(dir: &Path) -> PathBuf {
    dir.join(LISTENING_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let written = listening();
        written.write(dir.path()).unwrap();

        let read = Listening::read(dir.path()).unwrap();
        Listening::remove(dir.path()).unwrap();

        assert_eq!(read, Some(written));
        assert_eq!(Listening::read(dir.path()).unwrap(), None);
    }

    #[test]
    fn only_ports_that_the_system_chose_are_filled_in() {
        let mut config = Config::default();
        config.consumer.listen.set_port(0);

        listening().fill_in(&mut config);

        assert_eq!(config.consumer.listen.port(), 1);
        assert_eq!(config.tunnel.listen.port(), 9010);
    }

    #[test]
    fn a_file_that_somebody_else_wrote_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(file_path(dir.path()), "{}").unwrap();

        assert!(Listening::read(dir.path()).is_err());
    }

    fn listening() -> Listening {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Listening::here(at(1), at(2), at(3))
    }
}
