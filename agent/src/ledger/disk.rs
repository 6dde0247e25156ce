//! Where the log's bytes lie: a folder of files that only grow.
//!
//! Invariant: nothing here tries again; what failed is told, and whoever writes stops for good.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Files by name. What was appended may be lost until [`Disk::sync`], and a file that was created
/// until [`Disk::sync_names`].
pub trait Disk: Send + Sync {
    /// The names of all files.
    ///
    /// # Errors
    /// The folder cannot be read.
    fn names(&self) -> io::Result<Vec<String>>;

    /// How many bytes a file has.
    ///
    /// # Errors
    /// There is no such file.
    fn size(&self, name: &str) -> io::Result<u64>;

    /// At most so many bytes from there on; fewer only at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    fn read(&self, name: &str, from: u64, bytes_max: usize) -> io::Result<Vec<u8>>;

    /// Makes an empty file, which must not be there.
    ///
    /// # Errors
    /// It cannot be made.
    fn create(&self, name: &str) -> io::Result<()>;

    /// Writes at a file's end.
    ///
    /// # Errors
    /// Not all of it was written; how much was is not known.
    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what was written to a file.
    ///
    /// # Errors
    /// What was written since the last time may be lost, even if a later sync succeeds.
    fn sync(&self, name: &str) -> io::Result<()>;

    /// Makes durable which files there are.
    ///
    /// # Errors
    /// It is not known which of them would be there after a power cut.
    fn sync_names(&self) -> io::Result<()>;

    /// Cuts a file to its first bytes, durably.
    ///
    /// # Errors
    /// It was not cut, or not durably.
    fn cut(&self, name: &str, bytes: u64) -> io::Result<()>;

    /// Takes a file away. [`Disk::sync_names`] makes that durable.
    ///
    /// # Errors
    /// It is still there.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// A folder of the file system.
pub struct Folder {
    dir: PathBuf,
    /// The file that is written to.
    open: Mutex<Option<(String, File)>>,
}

impl Folder {
    /// This folder, which is there.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), open: Mutex::new(None) }
    }

    fn with_open<T>(&self, name: &str, act: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = open.as_mut().filter(|(opened, _)| opened == name) {
            return act(file);
        }
        let file = OpenOptions::new().append(true).open(self.dir.join(name))?;
        act(&mut open.insert((name.to_owned(), file)).1)
    }
}

impl Disk for Folder {
    fn names(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(std::fs::metadata(self.dir.join(name))?.len())
    }

    fn read(&self, name: &str, from: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.dir.join(name))?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(bytes_max as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn create(&self, name: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.append(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(self.dir.join(name))?;
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some((name.to_owned(), file));
        Ok(())
    }

    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with_open(name, |file| file.write_all(bytes))
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.with_open(name, |file| file.sync_data())
    }

    fn sync_names(&self) -> io::Result<()> {
        #[cfg(unix)]
        File::open(&self.dir)?.sync_all()?;
        Ok(())
    }

    fn cut(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.with_open(name, |file| {
            file.set_len(bytes)?;
            file.sync_all()
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
        std::fs::remove_file(self.dir.join(name))
    }
}
