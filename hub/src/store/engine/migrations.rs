//! The tables, as the steps that make them: the same steps for both kinds of database.
//!
//! Invariant: a step that was released is never changed and never taken out.

/// One step.
pub(super) struct Migration {
    pub(super) name: &'static str,
    pub(super) sqlite: &'static str,
    pub(super) mysql: &'static str,
}

macro_rules! migrations {
    ($($file:literal),* $(,)?) => {
        &[$(Migration {
            // The file's name after its number.
            name: $file.split_at(5).1,
            sqlite: include_str!(concat!("../../../../migrations/sqlite/", $file, ".sql")),
            mysql: include_str!(concat!("../../../../migrations/mysql/", $file, ".sql")),
        }),*]
    };
}

/// In their order; the first has the number 1.
pub(super) const MIGRATIONS: &[Migration] =
    migrations!["0001_registry", "0002_prices", "0003_books", "0004_zones_tiers", "0005_idempotency", "0006_leaves"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_have_the_same_tables_and_columns_in_the_same_order() {
        for migration in MIGRATIONS {
            assert_eq!(shape(migration.sqlite), shape(migration.mysql), "{}", migration.name);
            assert!(!shape(migration.sqlite).is_empty(), "{}", migration.name);
        }
    }

    /// What each statement makes, without types and defaults.
    fn shape(statements: &str) -> Vec<String> {
        let mut shape = Vec::new();
        let mut table = String::new();
        for line in statements.lines().map(|line| line.trim().replace('`', "")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["CREATE", "TABLE", name, ..] => table = name.to_owned(),
                ["ALTER", "TABLE", name, "ADD", "COLUMN", column, ..] => shape.push(format!("{name}.{column}")),
                ["CREATE", "INDEX", name, ..] => shape.push(name.to_owned()),
                ["CONSTRAINT", name, ..] => shape.push(format!("{table}:{name}")),
                ["PRIMARY", "KEY", ..] => shape.push(format!("{table}:{line}")),
                ["INSERT", "INTO", name, ..] => shape.push(format!("into {name}")),
                [")", ..] | [");"] => table.clear(),
                [column, _, ..] if !table.is_empty() && !line.starts_with("--") => {
                    shape.push(format!("{table}.{column}"));
                }
                _ => {}
            }
        }
        shape
    }
}
