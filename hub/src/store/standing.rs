//! What consumers pay and owners get: zones, tiers, and the tier of each agent.
//!
//! Invariant: a name has at most one factor, and an agent at most one tier.

use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::OwnerTier;
use keyhaven_protocol::price::Zone;

use super::Store;
use super::StoreError;
use super::bytes;
use super::engine::Row;
use super::engine::query;
use super::number;

impl Store {
    /// All zones that are set.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn zones(&self) -> Result<Vec<(Zone, Ppm)>, StoreError> {
        let rows = query("SELECT name, factor_ppm AS ppm FROM zones ORDER BY name").fetch_all(&self.database).await?;
        rows.iter().map(named).collect()
    }

    /// All tiers that are set.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn tiers(&self) -> Result<Vec<(OwnerTier, Ppm)>, StoreError> {
        let rows = query("SELECT name, ratio_ppm AS ppm FROM tiers ORDER BY name").fetch_all(&self.database).await?;
        rows.iter().map(named).collect()
    }

    /// The tiers of agents that have another than the standard one.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn agent_tiers(&self) -> Result<Vec<(AgentId, OwnerTier)>, StoreError> {
        let rows = query("SELECT agent_id, tier FROM agent_tiers").fetch_all(&self.database).await?;
        let tier = |row: &Row| {
            let name: String = row.try_get("tier")?;
            let tier = name.parse().map_err(|_| StoreError::Damaged { column: "tier" })?;
            Ok((AgentId(bytes(row, "agent_id")?), tier))
        };
        rows.iter().map(tier).collect()
    }

    /// Sets what a zone pays, if no tier gets more or that is wanted. Returns the tier that
    /// stands in the way.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn put_zone(
        &self,
        zone: Zone,
        factor: Ppm,
        subsidy: bool,
    ) -> Result<Option<(OwnerTier, Ppm)>, StoreError> {
        let mut change = self.change().await?;
        // Read within the change: what is compared cannot be another moment's.
        let rows = query("SELECT name, ratio_ppm AS ppm FROM tiers").fetch_all(&mut change).await?;
        let tiers: Vec<(OwnerTier, Ppm)> = rows.iter().map(named).collect::<Result<_, _>>()?;
        let dearest = tiers.into_iter().max_by_key(|(_, ratio)| ratio.0);
        if let Some(above) = dearest.filter(|(_, ratio)| ratio.0 > factor.0 && !subsidy) {
            return Ok(Some(above));
        }
        query("DELETE FROM zones WHERE name = ?").bind(zone.name()).execute(&mut change).await?;
        query("INSERT INTO zones (name, factor_ppm) VALUES (?, ?)")
            .bind(zone.name())
            .bind(i64::from(factor.0))
            .execute(&mut change)
            .await?;
        change.commit().await?;
        Ok(None)
    }

    /// Sets what a tier gets, if no zone pays less or that is wanted. Returns the zone that
    /// stands in the way.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn put_tier(
        &self,
        tier: OwnerTier,
        ratio: Ppm,
        subsidy: bool,
    ) -> Result<Option<(Zone, Ppm)>, StoreError> {
        let mut change = self.change().await?;
        let rows = query("SELECT name, factor_ppm AS ppm FROM zones").fetch_all(&mut change).await?;
        let zones: Vec<(Zone, Ppm)> = rows.iter().map(named).collect::<Result<_, _>>()?;
        let cheapest = zones.into_iter().min_by_key(|(_, factor)| factor.0);
        if let Some(below) = cheapest.filter(|(_, factor)| factor.0 < ratio.0 && !subsidy) {
            return Ok(Some(below));
        }
        query("DELETE FROM tiers WHERE name = ?").bind(tier.name()).execute(&mut change).await?;
        query("INSERT INTO tiers (name, ratio_ppm) VALUES (?, ?)")
            .bind(tier.name())
            .bind(i64::from(ratio.0))
            .execute(&mut change)
            .await?;
        change.commit().await?;
        Ok(None)
    }

    /// Sets the tier of an agent.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn put_agent_tier(&self, agent: AgentId, tier: OwnerTier) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        query("DELETE FROM agent_tiers WHERE agent_id = ?").bind(&agent.0[..]).execute(&mut change).await?;
        if tier != OwnerTier::Standard {
            query("INSERT INTO agent_tiers (agent_id, tier) VALUES (?, ?)")
                .bind(&agent.0[..])
                .bind(tier.name())
                .execute(&mut change)
                .await?;
        }
        change.commit().await?;
        Ok(())
    }
}

fn named<N: std::str::FromStr>(row: &Row) -> Result<(N, Ppm), StoreError> {
    let name: String = row.try_get("name")?;
    let name = name.parse().map_err(|_| StoreError::Damaged { column: "name" })?;
    let ppm = u32::try_from(number(row, "ppm")?).map_err(|_| StoreError::Damaged { column: "ppm" })?;
    Ok((name, Ppm(ppm)))
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::id::TokenId;

    use super::*;
    use crate::on_every_engine;
    use crate::store::Home;
    use crate::store::join_tokens::NewToken;

    on_every_engine![
        nothing_is_set_until_somebody_sets_it_and_then_it_can_be_changed,
        no_zone_pays_less_than_a_tier_gets_unless_that_is_wanted,
        an_agent_has_the_standard_tier_until_it_is_given_another,
    ];

    async fn nothing_is_set_until_somebody_sets_it_and_then_it_can_be_changed(home: Home) {
        let store = home.open().await;
        assert!(store.zones().await.unwrap().is_empty() && store.tiers().await.unwrap().is_empty());

        store.put_zone(Zone::Standard, Ppm(1_150_000), false).await.unwrap();
        store.put_zone(Zone::Standard, Ppm(1_200_000), false).await.unwrap();
        store.put_tier(OwnerTier::Basic, Ppm(800_000), false).await.unwrap();

        assert_eq!(store.zones().await.unwrap(), [(Zone::Standard, Ppm(1_200_000))]);
        assert_eq!(store.tiers().await.unwrap(), [(OwnerTier::Basic, Ppm(800_000))]);
        assert_eq!(store.revision().await.unwrap(), 3);
    }

    async fn no_zone_pays_less_than_a_tier_gets_unless_that_is_wanted(home: Home) {
        let store = home.open().await;
        store.put_zone(Zone::Discount, Ppm(900_000), false).await.unwrap();

        let refused = store.put_tier(OwnerTier::Preferred, Ppm(950_000), false).await.unwrap();
        assert_eq!(refused, Some((Zone::Discount, Ppm(900_000))));
        assert!(store.tiers().await.unwrap().is_empty());
        assert_eq!(store.put_tier(OwnerTier::Preferred, Ppm(900_000), false).await.unwrap(), None, "equal is not less");

        let refused = store.put_zone(Zone::Premium, Ppm(899_999), false).await.unwrap();
        assert_eq!(refused, Some((OwnerTier::Preferred, Ppm(900_000))));
        assert_eq!(store.put_zone(Zone::Premium, Ppm(899_999), true).await.unwrap(), None);
        assert_eq!(store.zones().await.unwrap().len(), 2);
    }

    async fn an_agent_has_the_standard_tier_until_it_is_given_another(home: Home) {
        let store = home.open().await;
        let agent = AgentId([2; 16]);
        let token =
            NewToken { id: TokenId([2; 16]), agent, secret_hash: [0; 32], created_unix_ms: 1, expires_unix_ms: 2 };
        store.invite_agent("office", &token).await.unwrap();

        store.put_agent_tier(agent, OwnerTier::Preferred).await.unwrap();
        store.put_agent_tier(agent, OwnerTier::Basic).await.unwrap();
        assert_eq!(store.agent_tiers().await.unwrap(), [(agent, OwnerTier::Basic)]);
        store.put_agent_tier(agent, OwnerTier::Standard).await.unwrap();
        assert!(store.agent_tiers().await.unwrap().is_empty());
    }
}
