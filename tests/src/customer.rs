//! A consumer with an account of its own: what it has, what it was charged, what it is told.
//!
//! Invariant: all of it is asked of the hub, as consumers and operators ask; the books are audited
//! where nothing else would show that they are wrong.

use crate::consumer::Answer;
use crate::consumer::get_with;
use crate::daemons::HubSite;
use crate::daemons::eventually;
use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_hub::registry::Registry;
use serde_json::Value;
use std::net::SocketAddr;

/// An account and a key of it.
#[derive(Debug, Clone)]
pub struct Customer {
    /// The account's name.
    pub account: String,
    /// The key.
    pub key: String,
}

impl Customer {
    /// Makes an account in the standard zone with so many nano-dollars, and a key with these flags.
    ///
    /// # Errors
    /// When a command fails.
    pub async fn create(site: &HubSite, name: &str, nano_usd: i64, flags: &[&str]) -> Result<Self> {
        site.json(&["account", "create", name]).await?;
        let customer = Self { account: name.to_owned(), key: String::new() };
        customer.pay_in(site, nano_usd, "first").await?;
        customer.with_key(site, name, flags).await
    }

    /// The same account with one more key.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn with_key(&self, site: &HubSite, key_name: &str, flags: &[&str]) -> Result<Self> {
        let words: Vec<&str> = ["key", "create", "--name", key_name, "--account", &self.account]
            .into_iter()
            .chain(flags.to_vec())
            .collect();
        let made = site.json(&words).await?;
        let key = made["key"].as_str().context("no key")?.to_owned();
        Ok(Self { account: self.account.clone(), key })
    }

    /// Books a deposit.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn pay_in(&self, site: &HubSite, nano_usd: i64, reference: &str) -> Result<()> {
        let (reference, usd) = (format!("{} {reference}", self.account), usd(nano_usd));
        site.json(&["account", "deposit", &self.account, &usd, "--reference", &reference]).await?;
        Ok(())
    }

    /// What `GET` of a path below `/keyhaven/v1/` answers.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn get(&self, hub: SocketAddr, path: &str) -> Result<Answer> {
        get_with(hub, &format!("/keyhaven/v1/{path}"), &format!("authorization: Bearer {}\r\n", self.key)).await
    }

    /// The same, and there is an answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn ask(&self, hub: SocketAddr, path: &str) -> Result<Value> {
        let answer = self.get(hub, path).await?;
        ensure!(answer.status() == 200, "{path}: {}", answer.text());
        Ok(answer.json())
    }

    /// The record of a call, once it is metered; none when it was not sold.
    ///
    /// # Errors
    /// When it is not told in time.
    pub async fn record(&self, hub: SocketAddr, id: &str) -> Result<Option<Value>> {
        eventually("the record of a call", || async {
            let answer = self.get(hub, &format!("calls/{id}")).await?;
            match answer.status() {
                200 => Ok(Some(Some(answer.json()))),
                404 => Ok(Some(None)),
                425 => Ok(None),
                status => anyhow::bail!("{status}: {}", answer.text()),
            }
        })
        .await
    }

    /// The balance as it is written, in nano-dollars.
    ///
    /// # Errors
    /// When it is not told.
    pub async fn balance(&self, hub: SocketAddr) -> Result<i64> {
        self.ask(hub, "balance").await?["balance_nano_usd"].as_i64().context("no balance")
    }

    /// Waits until that is what is written.
    ///
    /// # Errors
    /// When it does not come to that.
    pub async fn until_balance(&self, hub: SocketAddr, nano_usd: i64) -> Result<()> {
        eventually(&format!("a balance of {nano_usd}"), || async {
            Ok((self.balance(hub).await? == nano_usd).then_some(()))
        })
        .await
    }
}

/// Nano-dollars as people type dollars.
#[must_use]
pub fn usd(nano_usd: i64) -> String {
    format!("{}.{:09}", nano_usd / 1_000_000_000, nano_usd % 1_000_000_000)
}

/// Every entry of the books sums to zero, every balance is the sum of its postings, and no lease is of money that is
/// not there.
///
/// # Errors
/// What is wrong.
pub async fn audit(site: &HubSite) -> Result<()> {
    let registry = Registry::open(site.dir(), None).await?;
    let wrong = registry.store.audit_ledger().await?;
    registry.store.close().await;
    ensure!(wrong.is_empty(), "the books are wrong: {wrong:?}");
    Ok(())
}
