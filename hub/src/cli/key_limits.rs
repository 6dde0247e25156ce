//! What a key may do, as the command line says it.
//!
//! Invariant: what is not said stays as it was.

use clap::Args;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::money::NanoUsd;

use super::text;
use crate::key_policy::KeyPolicy;
use crate::key_policy::LIST_LENGTH_MAX;
use crate::key_policy::Mode;
use crate::key_policy::Network;
use crate::key_policy::PolicyError;
use crate::key_policy::model_of_list;

/// The word for no limit at all.
const NONE: &str = "none";

#[derive(Debug, Clone, Default, Args)]
pub(super) struct Limits {
    /// `assist`: ask OpenAI for usage where the consumer does not, invisibly; `exact`: change
    /// nothing.
    #[arg(long)]
    mode: Option<Mode>,
    /// US dollars that it may spend on one day (UTC), or `none`.
    #[arg(long, value_name = "USD", value_parser = budget)]
    budget_day: Option<Budget>,
    /// US dollars that it may spend in one month (UTC), or `none`.
    #[arg(long, value_name = "USD", value_parser = budget)]
    budget_month: Option<Budget>,
    /// US dollars that it may spend in all, or `none`.
    #[arg(long, value_name = "USD", value_parser = budget)]
    budget_total: Option<Budget>,
    /// A model that it may use; give it again for more. One that ends in `*` stands for all
    /// that begin so, and `none` for no list: all.
    #[arg(long, value_name = "MODEL")]
    model: Vec<String>,
    /// An address or network (10.1.0.0/16) that it may be used from; give it again for more, or
    /// `none` for no list: from everywhere.
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<String>,
    /// For how long from now it is good, such as 30d, or `none`: for ever.
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expires: Option<Expiry>,
}

/// A budget as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Budget(Option<NanoUsd>);

/// An end as typed, from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expiry(Option<std::time::Duration>);

impl Limits {
    /// Whether nothing is said at all.
    pub(super) fn is_empty(&self) -> bool {
        let Self { mode, budget_day, budget_month, budget_total, model, ip, expires } = self;
        let budgets = [budget_day, budget_month, budget_total];
        mode.is_none()
            && budgets.iter().all(|budget| budget.is_none())
            && model.is_empty()
            && ip.is_empty()
            && expires.is_none()
    }

    /// The policy with what was said in the place of what it says.
    pub(super) fn change(&self, policy: &KeyPolicy, now_unix_ms: u64) -> Result<KeyPolicy, Failure> {
        let mut changed = policy.clone();
        changed.mode = self.mode.unwrap_or(policy.mode);
        let budgets = &mut changed.budgets;
        let said = [
            (&mut budgets.day, self.budget_day),
            (&mut budgets.month, self.budget_month),
            (&mut budgets.total, self.budget_total),
        ];
        for (budget, said) in said {
            *budget = said.map_or(*budget, |Budget(said)| said);
        }
        if let Some(models) = list(&self.model, model_of_list)? {
            changed.models = models;
        }
        if let Some(networks) = list(&self.ip, |text| text.parse::<Network>())? {
            changed.networks = networks;
        }
        if let Some(Expiry(after)) = self.expires {
            let end = |after: std::time::Duration| {
                now_unix_ms.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
            };
            // Beyond what the database holds is for ever.
            changed.expires_unix_ms = after.map(end).filter(|end| i64::try_from(*end).is_ok());
        }
        Ok(changed)
    }
}

fn list<T>(said: &[String], parse: impl Fn(&str) -> Result<T, PolicyError>) -> Result<Option<Vec<T>>, Failure> {
    let failed = |error: PolicyError| Failure::new(ErrorCode::UsageInvalid, error.to_string());
    match said {
        [] => Ok(None),
        [only] if only == NONE => Ok(Some(Vec::new())),
        said if said.len() > LIST_LENGTH_MAX => Err(failed(PolicyError::TooMany)),
        said => said.iter().map(|text| parse(text)).collect::<Result<_, _>>().map(Some).map_err(failed),
    }
}

fn budget(text: &str) -> Result<Budget, String> {
    if text == NONE {
        return Ok(Budget(None));
    }
    let amount: NanoUsd = text.parse().map_err(|error| format!("{error}"))?;
    if amount < NanoUsd::ZERO { Err("it is below 0".to_owned()) } else { Ok(Budget(Some(amount))) }
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if text == NONE { Ok(Expiry(None)) } else { text::duration(text).map(|after| Expiry(Some(after))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_policy::Budgets;

    #[test]
    fn what_is_not_said_stays_and_none_takes_a_limit_away() {
        let before = KeyPolicy {
            mode: Mode::Exact,
            budgets: Budgets { day: Some(NanoUsd(1)), month: Some(NanoUsd(2)), total: None },
            models: vec!["gpt-4o".to_owned()],
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            expires_unix_ms: Some(5),
        };
        let nothing = Limits::default();
        let something = Limits {
            budget_day: Some(budget("0.000000003").unwrap()),
            budget_month: Some(budget("none").unwrap()),
            model: vec!["none".to_owned()],
            ip: vec!["::1".to_owned(), "10.1.0.0/16".to_owned()],
            expires: Some(expiry("10s").unwrap()),
            ..Limits::default()
        };

        assert!(nothing.is_empty() && !something.is_empty());
        assert_eq!(nothing.change(&before, 1000).unwrap(), before);
        let after = something.change(&before, 1000).unwrap();
        assert_eq!(after.mode, Mode::Exact);
        assert_eq!(after.budgets, Budgets { day: Some(NanoUsd(3)), month: None, total: None });
        assert_eq!(after.models, Vec::<String>::new());
        assert_eq!(after.networks.len(), 2);
        assert_eq!(after.expires_unix_ms, Some(11_000));
    }

    #[test]
    fn what_cannot_be_a_limit_is_refused() {
        for bad in ["", "-1", "1e3", "0.0000000001", "lots"] {
            assert!(budget(bad).is_err(), "{bad}");
        }
        for (model, ip) in [(vec!["a b"], vec![]), (vec![], vec!["10.0.0.0/33"]), (vec!["none", "x*y"], vec![])] {
            let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect::<Vec<_>>();
            let limits = Limits { model: owned(model), ip: owned(ip), ..Limits::default() };
            assert!(limits.change(&KeyPolicy::default(), 1).is_err(), "{limits:?}");
        }
        let many = Limits { model: vec!["m".to_owned(); LIST_LENGTH_MAX + 1], ..Limits::default() };
        assert!(many.change(&KeyPolicy::default(), 1).is_err());
    }
}
