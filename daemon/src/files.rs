//! Files that are whole or absent, and one owner per data directory.
//!
//! Invariant: a reader of a file written here sees the old bytes or the new
//! bytes, never a part, even after a power cut.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use keyhaven_protocol::ErrorCode;

use crate::failure::Failure;

/// Makes the names of temporary files differ within this process.
static TEMPORARY_COUNT: AtomicU64 = AtomicU64::new(0);

/// Replaces `path` by a file with these bytes and exactly this mode, whatever
/// the umask or the old file's mode.
///
/// # Errors
/// Nothing was replaced, unless the error came from the directory's fsync: then
/// the new file is there but might not outlive a power cut.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = directory_of(path);
    let (temporary, file) = temporary_beside(path, mode)?;

    let replaced = write_durably(file, bytes, mode).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = replaced {
        // What is left of it would only be litter; the first error is the one that counts.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory(dir)
}

/// Makes a directory, and those above it, for its owner alone, unless it is there.
///
/// # Errors
/// It cannot be made.
pub fn make_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Waits for the turn to read, change and write what `lock_file` stands for, and
/// makes that file if need be. The turn ends with the drop of the file; it is
/// for work that is soon done.
///
/// # Errors
/// The file cannot be made or locked.
pub fn wait_for_turn(lock_file: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    set_mode(&mut options, 0o600);
    let file = options.open(lock_file)?;
    file.lock()?;
    Ok(file)
}

/// The right to use a data directory: at most one holder at a time, across
/// processes, unless a holder shares it with its successor. The kernel frees it
/// when the last holder ends, however it ends.
#[derive(Debug)]
pub struct DirLock {
    file: File,
    /// Another process has this very lock too: it is for the kernel to free.
    shared: bool,
}

impl DirLock {
    /// Takes the lock of `dir` without waiting.
    ///
    /// # Errors
    /// `ErrorKind::WouldBlock`, and only that, means that somebody else holds it.
    pub fn acquire(dir: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        set_mode(&mut options, 0o600);
        let file = options.open(dir.join("lock"))?;

        match file.try_lock() {
            Ok(()) => Ok(Self { file, shared: false }),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// As [`DirLock::acquire`], for a command: the failure says which directory,
    /// and whether somebody else uses it.
    ///
    /// # Errors
    /// [`ErrorCode::AlreadyRunning`] or [`ErrorCode::DataDirUnusable`].
    pub fn claim(dir: &Path) -> Result<Self, Failure> {
        Self::acquire(dir).map_err(|error| {
            let failure = if Self::is_held_elsewhere(&error) {
                Failure::new(ErrorCode::AlreadyRunning, "")
            } else {
                Failure::new(ErrorCode::DataDirUnusable, error.to_string())
            };
            failure.at(dir.display().to_string())
        })
    }

    /// Takes part in the lock that another process holds, by a copy of its file.
    ///
    /// # Errors
    /// `ErrorKind::WouldBlock`: the file is not the one that holds the lock.
    pub fn take_part(file: File) -> io::Result<Self> {
        match file.try_lock() {
            Ok(()) => Ok(Self { file, shared: true }),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// A copy of the file for another process, which may [take part](Self::take_part).
    ///
    /// # Errors
    /// The system has no more handles.
    pub fn copy(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Another process has taken part: from now on the end of this one frees nothing.
    pub fn is_shared_now(&mut self) {
        self.shared = true;
    }

    /// Whether `acquire` failed because somebody else holds the lock.
    pub fn is_held_elsewhere(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::WouldBlock
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing the file would free it too, but not while a child that is
        // between fork and exec still has a copy of the handle.
        if !self.shared {
            let _ = self.file.unlock();
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new file beside `path`, and where it is. A name may be taken by what a
/// process with the same id left behind when it was killed, so it is not the
/// last that is tried.
fn temporary_beside(path: &Path, mode: u32) -> io::Result<(PathBuf, File)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    set_mode(&mut options, mode & 0o700);
    loop {
        let temporary = temporary_name(path, TEMPORARY_COUNT.fetch_add(1, Ordering::Relaxed))?;
        match options.open(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn temporary_name(path: &Path, count: u64) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.{count}.tmp", std::process::id()));
    Ok(directory_of(path).join(temporary))
}

fn write_durably(mut file: File, bytes: &[u8], mode: u32) -> io::Result<()> {
    file.write_all(bytes)?;
    set_exact_mode(&file, mode)?;
    file.sync_all()
}

#[cfg(unix)]
fn set_mode(options: &mut OpenOptions, mode: u32) {
    std::os::unix::fs::OpenOptionsExt::mode(options, mode);
}

#[cfg(unix)]
fn set_exact_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
}

#[cfg(unix)]
fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn set_mode(_options: &mut OpenOptions, _mode: u32) {}

#[cfg(not(unix))]
fn set_exact_mode(_file: &File, _mode: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn sync_directory(_dir: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    #[test]
    fn the_file_has_the_bytes_and_the_mode_that_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "old and longer than the new").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();

        write_atomically(&path, b"new", 0o600).unwrap();

        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(mode_of(&path), 0o600);
        write_atomically(&path, b"shared", 0o666).unwrap();
        assert_eq!(mode_of(&path), 0o666, "the umask has no say");
    }

    #[test]
    fn nothing_but_the_file_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");

        for round in 0..3u8 {
            write_atomically(&path, &[round], 0o600).unwrap();
        }

        assert_eq!(names_in(dir.path()), ["status.json"]);
    }

    #[test]
    fn what_a_killed_process_with_the_same_id_left_behind_stops_no_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let next = TEMPORARY_COUNT.load(Ordering::Relaxed);
        // Other tests of this process count as well.
        for count in next..next + 500 {
            std::fs::write(temporary_name(&path, count).unwrap(), "left").unwrap();
        }

        write_atomically(&path, b"new", 0o600).unwrap();

        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names_in(dir.path()).len(), 501, "what somebody else may be writing stays");
    }

    #[test]
    fn a_private_directory_is_its_owners_alone_and_may_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");

        make_private_dir(&inner).unwrap();
        make_private_dir(&inner).unwrap();

        assert_eq!((mode_of(&inner), mode_of(&dir.path().join("a"))), (0o700, 0o700));
    }

    #[test]
    fn turns_are_taken_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let (lock_file, counted) = (dir.path().join("lock"), dir.path().join("count"));
        std::fs::write(&counted, "0").unwrap();

        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    let _turn = wait_for_turn(&lock_file).unwrap();
                    let count: u8 = std::fs::read_to_string(&counted).unwrap().parse().unwrap();
                    std::fs::write(&counted, (count + 1).to_string()).unwrap();
                });
            }
        });

        assert_eq!(std::fs::read_to_string(&counted).unwrap(), "8");
        assert_eq!(mode_of(&lock_file), 0o600);
    }

    #[test]
    fn a_write_that_fails_changes_nothing_and_leaves_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let occupied = dir.path().join("occupied");
        std::fs::create_dir(&occupied).unwrap();
        std::fs::write(occupied.join("file"), "kept").unwrap();

        let error = write_atomically(&occupied, b"new", 0o600).unwrap_err();

        assert_ne!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(names_in(dir.path()), ["occupied"]);
        assert_eq!(std::fs::read(occupied.join("file")).unwrap(), b"kept");
    }

    #[test]
    fn a_reader_never_sees_a_part_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        let long = vec![b'a'; 256 * 1024];
        let short = vec![b'b'; 17];
        write_atomically(&path, &long, 0o600).unwrap();

        std::thread::scope(|threads| {
            let writer = threads.spawn(|| {
                for _ in 0..20 {
                    write_atomically(&path, &short, 0o600).unwrap();
                    write_atomically(&path, &long, 0o600).unwrap();
                }
            });
            while !writer.is_finished() {
                let seen = std::fs::read(&path).unwrap();
                assert!(seen == long || seen == short, "saw {} bytes", seen.len());
            }
        });
    }

    #[test]
    fn a_bare_file_name_is_taken_relative_to_the_working_directory() {
        assert_eq!(directory_of(Path::new("status.json")), Path::new("."));
        assert!(write_atomically(Path::new("/"), b"", 0o600).is_err());
    }

    #[test]
    fn a_directory_has_one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path()).unwrap();

        let second = DirLock::acquire(dir.path()).unwrap_err();

        assert!(DirLock::is_held_elsewhere(&second));
        assert_eq!(DirLock::claim(dir.path()).unwrap_err().code(), ErrorCode::AlreadyRunning);
        drop(first);
        DirLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn another_process_is_locked_out_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path()).unwrap();

        let while_held = other_process_gets_lock(dir.path());
        drop(lock);
        let after = other_process_gets_lock(dir.path());

        assert!(!while_held);
        assert!(after);
    }

    #[test]
    fn a_directory_that_is_not_there_is_no_lock_conflict() {
        let dir = tempfile::tempdir().unwrap();

        let error = DirLock::acquire(&dir.path().join("absent")).unwrap_err();

        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let claimed = DirLock::claim(&dir.path().join("absent")).unwrap_err();
        assert_eq!(claimed.code(), ErrorCode::DataDirUnusable);
        assert!(!DirLock::is_held_elsewhere(&error));
    }

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn names_in(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn other_process_gets_lock(dir: &Path) -> bool {
        let status = Command::new("flock").arg("--nonblock").arg(dir.join("lock")).arg("true").status();
        status.expect("flock(1) is part of util-linux").success()
    }
}
