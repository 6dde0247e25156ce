//! Releases for the play `step`: the upstream sends a piece only when the test says so.
//!
//! Invariant: releases are counted, so one given before the call arrives is not lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use tokio::sync::Semaphore;

/// Releases of all cases, by the value of `x-kit-case`.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    cases: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

impl Steps {
    /// Lets the upstream send this many more pieces of the case's answer.
    pub fn release(&self, case: &str, pieces: usize) {
        self.of(case).add_permits(pieces);
    }

    pub(super) fn of(&self, case: &str) -> Arc<Semaphore> {
        let mut cases = self.cases.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(cases.entry(case.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(0))))
    }
}
