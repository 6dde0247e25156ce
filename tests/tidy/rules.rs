//! Every rule of money and trust is shown by tests that are there.
//!
//! Invariant: a test that is renamed or removed is missed on the page that relies on it.

use std::collections::BTreeMap;

use super::report;
use super::source::read;

const PAGE: &str = "docs/RULES.md";

/// How many rules there are; they have the numbers from 1.
const RULES: usize = 26;

#[test]
fn every_rule_of_money_and_trust_names_tests_that_are_there() {
    let mut findings = Vec::new();
    let mut tests: BTreeMap<usize, usize> = (1..=RULES).map(|rule| (rule, 0)).collect();
    let (mut rule, mut file) = (0, String::new());
    for line in read(PAGE).lines() {
        if let Some(title) = line.strip_prefix("### ") {
            rule = title.split('.').next().and_then(|number| number.parse().ok()).unwrap_or_default();
            if !tests.contains_key(&rule) {
                findings.push(format!("{PAGE}: {title:?} is no rule"));
            }
        }
        if !line.starts_with("- `") && !line.starts_with("  `") {
            continue;
        }
        for name in line.split('`').skip(1).step_by(2) {
            if name.contains('/') {
                name.clone_into(&mut file);
            } else if !has_test(&file, name) {
                findings.push(format!("{PAGE}: rule {rule}: {file} has no test {name}"));
            } else {
                *tests.entry(rule).or_default() += 1;
            }
        }
    }
    findings.extend(
        tests.iter().filter(|(_, count)| **count == 0).map(|(rule, _)| format!("{PAGE}: rule {rule} has no test")),
    );
    report("Every rule is shown by tests.", &findings);
}

/// A test function, or a line of a list of tests that a macro makes.
fn has_test(file: &str, name: &str) -> bool {
    let text = read(file);
    text.contains(&format!("fn {name}(")) || text.contains(&format!("    {name},\n"))
}
