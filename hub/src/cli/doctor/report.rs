//! The rows that `doctor` prints.
//!
//! Invariant: whatever is not ok says what to do about it.

use keyhaven_daemon::cli::table;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) check: &'static str,
    pub(super) result: Verdict,
    detail: String,
    pub(super) fix: Option<String>,
    #[serde(skip)]
    pub(super) code: Option<ErrorCode>,
}

impl Row {
    pub(super) const fn ok(check: &'static str, detail: String) -> Self {
        Self { check, result: Verdict::Ok, detail, fix: None, code: None }
    }

    pub(super) const fn warn(check: &'static str, detail: String, fix: String) -> Self {
        Self { check, result: Verdict::Warn, detail, fix: Some(fix), code: None }
    }

    pub(super) const fn fail(check: &'static str, code: ErrorCode, detail: String, fix: String) -> Self {
        Self { check, result: Verdict::Fail, detail, fix: Some(fix), code: Some(code) }
    }

    pub(super) fn failed(check: &'static str, fix: Option<&str>, failure: &Failure) -> Self {
        let fix = fix.unwrap_or(failure.code().fix()).to_owned();
        Self::fail(check, failure.code(), failure.to_string(), fix)
    }
}

#[derive(Serialize)]
pub(super) struct Report {
    ok: usize,
    warn: usize,
    pub(super) fail: usize,
    pub(super) rows: Vec<Row>,
}

impl Report {
    pub(super) fn of(rows: Vec<Row>) -> Self {
        let count = |verdict| rows.iter().filter(|row| row.result == verdict).count();
        Self { ok: count(Verdict::Ok), warn: count(Verdict::Warn), fail: count(Verdict::Fail), rows }
    }

    pub(super) fn to_text(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            let word = match row.result {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            let detail = match &row.fix {
                Some(fix) => format!("{}\nfix: {fix}", row.detail),
                None => row.detail.clone(),
            };
            vec![word.to_owned(), row.check.to_owned(), detail]
        });
        let rows = table(&["", "CHECK", "FOUND"], rows.collect());
        format!("{rows}\n{} ok, {} warnings, {} failed", self.ok, self.warn, self.fail)
    }
}
