//! A disk in memory that fails, stops and loses what was not synced, at any step.
//!
//! Invariant: what was synced is never lost by it, and the same seed loses the same.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::sync::Condvar;
use std::sync::Mutex;

use crate::ledger::disk::Disk;

const SECTOR: usize = 512;

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process ends before it.
    KillBefore,
    /// The process ends in the middle of it: of an append half of the bytes are written.
    KillWithin,
    /// The process ends after it, and never hears of it.
    KillAfter,
    /// It fails with this error, and so does every later one of its kind.
    Fail(io::ErrorKind),
}

#[derive(Debug, Clone, Default)]
struct File {
    bytes: Vec<u8>,
    /// So many of them are synced.
    synced: usize,
    /// Whether the file itself would be there after a power cut.
    is_named: bool,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, File>,
    /// Taken away, and not durably.
    removed: BTreeMap<String, File>,
    steps: u64,
    fault: Option<(u64, Fault)>,
    is_dead: bool,
    failing: Option<(&'static str, io::ErrorKind)>,
    seen: BTreeSet<(&'static str, String)>,
    is_held: bool,
    is_syncing: bool,
}

/// The disk.
#[derive(Default)]
pub(super) struct Platter {
    state: Mutex<State>,
    changed: Condvar,
}

impl Platter {
    /// At this step, counted from 0, this happens.
    pub(super) fn with_fault(self, step: u64, fault: Fault) -> Self {
        self.state.lock().unwrap().fault = Some((step, fault));
        self
    }

    /// How many steps there were.
    pub(super) fn steps(&self) -> u64 {
        self.state.lock().unwrap().steps
    }

    /// What was done, each kind once.
    pub(super) fn kinds(&self) -> BTreeSet<&'static str> {
        self.state.lock().unwrap().seen.iter().map(|(kind, _)| *kind).collect()
    }

    /// As the file system has it after the process was killed.
    pub(super) fn after_kill(&self) -> Self {
        let files = self.state.lock().unwrap().files.clone();
        Self::of(files)
    }

    /// As it may be after a power cut: of what was not synced some is there, some is not, and
    /// some is zeros.
    pub(super) fn after_power_cut(&self, seed: u64) -> Self {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % u64::try_from(below).unwrap()).unwrap()
        };
        let state = self.state.lock().unwrap();
        let mut files = BTreeMap::new();
        let removed = state.removed.iter().filter(|_| next(2) == 0).map(|(name, file)| (name.clone(), file.clone()));
        files.extend(removed.collect::<Vec<_>>());
        for (name, file) in &state.files {
            if !file.is_named && next(2) == 0 {
                continue;
            }
            let mut file = file.clone();
            let unsynced = file.bytes.len() - file.synced;
            file.bytes.truncate(file.synced + next(unsynced + 1));
            for from in (file.synced..file.bytes.len()).step_by(SECTOR) {
                let end = (from + SECTOR).min(file.bytes.len());
                if next(3) == 0 {
                    file.bytes[from..end].fill(0);
                }
            }
            files.insert(name.clone(), file);
        }
        Self::of(files)
    }

    /// A copy of it, as a backup is.
    pub(super) fn copy(&self) -> Self {
        self.after_kill()
    }

    fn of(mut files: BTreeMap<String, File>) -> Self {
        for file in files.values_mut() {
            (file.synced, file.is_named) = (file.bytes.len(), true);
        }
        Self { state: Mutex::new(State { files, ..State::default() }), changed: Condvar::new() }
    }

    /// Syncs do not come back until [`Self::let_go`].
    pub(super) fn hold(&self) {
        self.state.lock().unwrap().is_held = true;
    }

    /// Waits until somebody waits for a sync.
    pub(super) fn wait_for_sync(&self) {
        let mut state = self.state.lock().unwrap();
        while !state.is_syncing {
            state = self.changed.wait(state).unwrap();
        }
    }

    /// Syncs come back again.
    pub(super) fn let_go(&self) {
        self.state.lock().unwrap().is_held = false;
        self.changed.notify_all();
    }

    /// The names of the files with bytes in them.
    pub(super) fn files(&self) -> Vec<String> {
        self.state.lock().unwrap().files.keys().cloned().collect()
    }

    /// Changes a file's bytes, durably, as nobody should.
    pub(super) fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock().unwrap();
        let file = state.files.get_mut(name).unwrap();
        change(&mut file.bytes);
        file.synced = file.bytes.len();
    }

    /// A file's bytes.
    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        self.state.lock().unwrap().files[name].bytes.clone()
    }

    /// One step; what of it is to be done, and whether it is heard of.
    fn act(&self, kind: &'static str, name: &str, act: impl FnOnce(&mut State, bool)) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.is_dead {
            return Err(io::Error::other("the process was killed"));
        }
        if let Some((_, error)) = state.failing.filter(|(failing, _)| *failing == kind) {
            return Err(error.into());
        }
        state.seen.insert((kind, name.to_owned()));
        let at = state.steps;
        state.steps += 1;
        let fault = state.fault.filter(|(step, _)| *step == at).map(|(_, fault)| fault);
        match fault {
            None => {
                act(&mut state, true);
                return Ok(());
            }
            Some(Fault::KillBefore) => {}
            Some(Fault::KillWithin) => act(&mut state, false),
            Some(Fault::KillAfter) => act(&mut state, true),
            Some(Fault::Fail(error)) => {
                state.failing = Some((kind, error));
                // A disk that is full has taken some of it.
                act(&mut state, false);
                return Err(error.into());
            }
        }
        state.is_dead = true;
        Err(io::Error::other("the process was killed"))
    }
}

impl Disk for Platter {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.files())
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        let state = self.state.lock().unwrap();
        state.files.get(name).map(|file| file.bytes.len() as u64).ok_or(io::ErrorKind::NotFound.into())
    }

    fn read(&self, name: &str, from: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
        let state = self.state.lock().unwrap();
        let file = state.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let from = usize::try_from(from).unwrap().min(file.bytes.len());
        Ok(file.bytes[from..file.bytes.len().min(from.saturating_add(bytes_max))].to_vec())
    }

    fn create(&self, name: &str) -> io::Result<()> {
        assert!(!self.files().contains(&name.to_owned()), "{name} is there");
        self.act("create", name, |state, is_whole| {
            if is_whole {
                state.files.insert(name.to_owned(), File::default());
            }
        })
    }

    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.act("append", name, |state, is_whole| {
            let count = if is_whole { bytes.len() } else { bytes.len() / 2 };
            state.files.get_mut(name).unwrap().bytes.extend_from_slice(&bytes[..count]);
        })
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        while state.is_held {
            state.is_syncing = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap();
        }
        state.is_syncing = false;
        drop(state);
        self.act("sync", name, |state, is_whole| {
            let file = state.files.get_mut(name).unwrap();
            if is_whole {
                file.synced = file.bytes.len();
            }
        })
    }

    fn sync_names(&self) -> io::Result<()> {
        self.act("sync names", "", |state, is_whole| {
            if is_whole {
                state.files.values_mut().for_each(|file| file.is_named = true);
                state.removed.clear();
            }
        })
    }

    fn cut(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.act("cut", name, |state, is_whole| {
            if is_whole {
                let file = state.files.get_mut(name).unwrap();
                file.bytes.truncate(usize::try_from(bytes).unwrap());
                file.synced = file.bytes.len();
            }
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.act("remove", name, |state, is_whole| {
            if is_whole && let Some(file) = state.files.remove(name) {
                state.removed.insert(name.to_owned(), file);
            }
        })
    }
}
