//! Leases: a part of a balance or a budget that this process alone may spend for a while.
//!
//! Invariant: a lease is in the database before a call is held on it.

use std::sync::Arc;

use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::money::NanoUsd;

use super::Shared;
use super::new_boot;
use super::purses::Ask;
use super::purses::Grant;
use super::purses::Limit;
use crate::store::StoreError;
use crate::store::leases::Purse;
use crate::store::ledger::Batch;
use crate::store::ledger::Side;

impl Shared {
    /// Leases what a hold of this amount lacks, as far as there is so much.
    pub(super) async fn lease(self: &Arc<Self>, limits: &[Limit], amount: NanoUsd) -> Result<(), StoreError> {
        let mut boot = self.turn.lock().await;
        // Whoever had the turn before may have leased enough.
        let asks = self.lock().purses.asks(limits, amount, unix_ms_now());
        self.lease_of(&mut boot, asks).await
    }

    /// Leases what will be needed soon.
    pub(super) async fn lease_ahead(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut boot = self.turn.lock().await;
        let asks = self.lock().purses.asks_ahead(unix_ms_now());
        self.lease_of(&mut boot, asks).await
    }

    async fn lease_of(&self, boot: &mut BootId, asks: Vec<Ask>) -> Result<(), StoreError> {
        if asks.is_empty() {
            return Ok(());
        }
        let now_unix_ms = unix_ms_now();
        let to = *boot;
        let leased = self.store.replay(|| async {
            let mut batch = self.store.begin_batch(Some(to), now_unix_ms).await?;
            let mut grants = Vec::with_capacity(asks.len());
            for ask in &asks {
                grants.push(grant(&mut batch, to, ask).await?);
            }
            let lease =
                |(ask, grant): (&Ask, &Grant)| (grant.purse, NanoUsd(ask.kept.0.saturating_add(grant.granted.0)));
            batch.set_leases(to, &asks.iter().zip(&grants).map(lease).collect::<Vec<_>>()).await?;
            batch.commit(Some(to), now_unix_ms).await?;
            Ok(grants)
        });
        match leased.await {
            Ok(grants) => {
                self.lock().purses.granted(&asks, &grants, now_unix_ms);
                Ok(())
            }
            Err(StoreError::Fenced) => {
                *boot = self.begin_again().await?;
                Err(StoreError::Fenced)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives back what nobody has used since this time.
    pub(super) async fn give_back_idle(&self, since_unix_ms: u64) -> Result<(), StoreError> {
        let boot = self.turn.lock().await;
        let idle = self.lock().purses.take_idle(since_unix_ms);
        if idle.is_empty() {
            return Ok(());
        }
        let now_unix_ms = unix_ms_now();
        let given = self.store.replay(|| async {
            let mut batch = self.store.begin_batch(Some(*boot), now_unix_ms).await?;
            batch.set_leases(*boot, &idle.iter().map(|idle| (idle.purse, idle.kept)).collect::<Vec<_>>()).await?;
            batch.commit(Some(*boot), now_unix_ms).await
        });
        let given = given.await;
        if given.is_err() {
            self.lock().purses.maybe_given_back(&idle);
        }
        given
    }

    /// Another process took this one for dead and gave its leases back. What is under way here
    /// goes on in a boot of its own; what that overspends is the hub's.
    pub(super) async fn begin_again(&self) -> Result<BootId, StoreError> {
        let boot = new_boot();
        self.store.replay(|| self.store.begin_boot(boot, unix_ms_now())).await?;
        let mut state = self.lock();
        state.boot = boot;
        state.own_boots.push(boot);
        state.purses.lost_all();
        for phase in state.calls.values() {
            match phase {
                super::Phase::Open(open) => open.is_lost(),
                super::Phase::Ended(_) => {}
            }
        }
        drop(state);
        tracing::warn!("another process took this one for dead; it goes on as {boot}");
        Ok(boot)
    }
}

async fn grant(batch: &mut Batch, boot: BootId, ask: &Ask) -> Result<Grant, StoreError> {
    let purse = ask.limit.purse;
    let there_is = match purse {
        Purse::Account(account) => batch.balance(Side::Consumer(account)).await?.0,
        Purse::Key(key, period) => {
            let budget = ask.limit.budget.unwrap_or(NanoUsd(i64::MAX));
            budget.0.saturating_sub(batch.spent(key, period).await?.0)
        }
    };
    let elsewhere = batch.leased_elsewhere(purse, boot).await?;
    let left = there_is.saturating_sub(elsewhere.0).saturating_sub(ask.kept.0);
    let granted = NanoUsd(ask.wanted.0.min(left).max(0));
    Ok(Grant { purse, granted, elsewhere })
}
