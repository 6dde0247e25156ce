//! Many rows in one statement.
//!
//! Invariant: of one table there are few texts of statements, however many rows there are, so
//! that servers prepare each once.

use super::Engine;
use super::Statement;
use super::Tx;
use super::Value;
use crate::store::StoreError;

/// Rows in one statement.
const ROWS_MAX: usize = 1024;

/// Values in one statement; SQLite takes 32,766.
const VALUES_MAX: usize = 16_384;

/// Rows of `COLUMNS` values each.
#[derive(Debug)]
pub(in crate::store) struct Rows<'q, const COLUMNS: usize> {
    into: &'static str,
    values: Vec<Value<'q>>,
}

/// What becomes of a column where the row is there already.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) enum Update {
    /// It takes the new value.
    Set(&'static str),
    /// The new value is added to it.
    Add(&'static str),
}

impl<'q, const COLUMNS: usize> Rows<'q, COLUMNS> {
    /// For a statement that begins so: `INSERT INTO table (columns)`.
    pub(in crate::store) fn new(into: &'static str) -> Self {
        Self { into, values: Vec::new() }
    }

    pub(in crate::store) fn push(&mut self, row: [Value<'q>; COLUMNS]) {
        self.values.extend(row);
    }

    /// Inserts them; a row that is there already is an error.
    pub(in crate::store) async fn insert(self, tx: &mut Tx) -> Result<(), StoreError> {
        self.run("", tx).await
    }

    /// Inserts them, or updates the rows that have the same key.
    pub(in crate::store) async fn upsert(
        self,
        key: &'static str,
        updates: &[Update],
        tx: &mut Tx,
    ) -> Result<(), StoreError> {
        let sets = updates.iter().map(|update| match (tx.engine(), update) {
            (Engine::Sqlite, Update::Set(column)) => format!("{column} = excluded.{column}"),
            (Engine::Sqlite, Update::Add(column)) => format!("{column} = {column} + excluded.{column}"),
            (Engine::MySql, Update::Set(column)) => format!("{column} = VALUES({column})"),
            (Engine::MySql, Update::Add(column)) => format!("{column} = {column} + VALUES({column})"),
        });
        let sets = sets.collect::<Vec<_>>().join(", ");
        let tail = match tx.engine() {
            Engine::Sqlite => format!(" ON CONFLICT ({key}) DO UPDATE SET {sets}"),
            Engine::MySql => format!(" ON DUPLICATE KEY UPDATE {sets}"),
        };
        self.run(&tail, tx).await
    }

    async fn run(mut self, tail: &str, tx: &mut Tx) -> Result<(), StoreError> {
        while !self.values.is_empty() {
            let rows = portion(self.values.len() / COLUMNS, ROWS_MAX.min(VALUES_MAX / COLUMNS));
            let later = self.values.split_off(rows * COLUMNS);
            let row = format!("({})", marks(COLUMNS));
            let sql = format!("{} VALUES {}{tail}", self.into, vec![row; rows].join(", "));
            Statement::with(sql, std::mem::replace(&mut self.values, later)).execute(tx).await?;
        }
        Ok(())
    }
}

/// As many `?` as this.
pub(in crate::store) fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// The highest power of two that fits.
const fn portion(left: usize, most: usize) -> usize {
    let most = if left < most { left } else { most };
    1 << most.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_are_powers_of_two_and_cover_all() {
        for count in [1, 2, 3, 255, 256, 257, 5000] {
            let mut left = count;
            while left > 0 {
                let rows = portion(left, 1000);
                assert!(rows.is_power_of_two() && rows <= left && rows <= 512, "{rows} of {left}");
                left -= rows;
            }
        }
    }
}
