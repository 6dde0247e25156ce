//! What the process tests play on: a hub, an upstream and one good agent, all linked.
//!
//! Invariant: `unharmed` holds only if the good agent's very first link is still up and serves.

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::consumer::Answer;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::daemons::AgentSite;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::daemons::RunningHub;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::process::Process;
use keyhaven_tests::upstream::Upstream;
use std::net::SocketAddr;
use tempfile::TempDir;

/// Everything of one test; it ends when dropped.
pub(crate) struct Scene {
    pub(crate) site: HubSite,
    pub(crate) hub: RunningHub,
    pub(crate) upstream: Upstream,
    pub(crate) agent: AgentSite,
    pub(crate) agent_process: Process,
    pub(crate) api_key: String,
    link: u64,
    pub(crate) dir: TempDir,
}

impl Scene {
    pub(crate) async fn build() -> Result<Self> {
        Self::build_as(Ok).await
    }

    /// A scene whose hub is set up as the test wants it.
    pub(crate) async fn build_as(set: impl Fn(HubSite) -> Result<HubSite>) -> Result<Self> {
        Self::build_between(Upstream::start().await?, set, Ok).await
    }

    /// The same with an agent that dials what `path` makes of the hub's tunnel address.
    pub(crate) async fn build_over(
        set: impl Fn(HubSite) -> Result<HubSite>,
        path: impl FnOnce(SocketAddr) -> Result<SocketAddr>,
    ) -> Result<Self> {
        Self::build_between(Upstream::start().await?, set, path).await
    }

    /// The same in front of an upstream that was started as the test wants it.
    pub(crate) async fn build_before(upstream: Upstream, set: impl Fn(HubSite) -> Result<HubSite>) -> Result<Self> {
        Self::build_between(upstream, set, Ok).await
    }

    async fn build_between(
        upstream: Upstream,
        set: impl Fn(HubSite) -> Result<HubSite>,
        path: impl FnOnce(SocketAddr) -> Result<SocketAddr>,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("keyhaven-scene-").tempdir()?;
        let site = set(HubSite::new(&dir.path().join("hub")))?;
        // Before the hub starts: one that begins to sell while it runs takes its agents' seats back
        // until they have the prices, which may be after it has served the first call.
        site.json(&["init"]).await?;
        let api_key = site.api_key().await?;
        let hub = site.start().await?;
        // Many short lives in a row would let the pauses between attempts grow.
        let agent = AgentSite::new(&dir.path().join("agent")).env("KEYHAVEN_AGENT_LINK_BACKOFF_MAX_S", "1");
        // Room for a thousand calls and others beside them.
        let agent = agent.env("KEYHAVEN_AGENT_CALLS_CONCURRENT_MAX", "2000");
        agent.join(&site.invite_to("good", path(hub.tunnel)?).await?).await?;
        agent.add_keys(&upstream).await?;
        let agent_process = agent.start_before(&upstream)?;
        until_served(&Chat::new(&api_key), hub.consumer).await?;
        let links = site.links().await?;
        let link = links[0]["link_id"].as_u64().context("no link")?;
        Ok(Self { site, hub, upstream, agent, agent_process, api_key, link, dir })
    }

    /// A plain call that the good agent serves.
    pub(crate) fn chat(&self) -> Chat {
        Chat::new(&self.api_key)
    }

    /// The good agent's first link is up and serves, and the hub has logged nothing that somebody
    /// would have to act upon.
    pub(crate) async fn unharmed(&self) -> Result<()> {
        let answer = self.chat().ask(self.hub.consumer).await?;
        ensure!(answer.status() == 200 && answer.complete(), "no answer: {}", answer.text());
        let links = self.site.links().await?;
        ensure!(links.iter().any(|link| link["link_id"] == self.link), "the good agent lost its link: {links:?}");
        let log = self.hub.process.stderr();
        ensure!(!log.contains("ERROR") && !log.contains("panicked"), "the hub's log:\n{log}");
        Ok(())
    }
}

/// Asks again and again until the call is served.
pub(crate) async fn until_served(chat: &Chat, hub: SocketAddr) -> Result<Answer> {
    eventually("a served call", || async {
        // Nobody listens while the hub is down.
        let answer = chat.ask(hub).await.ok();
        Ok(answer.filter(|answer| answer.status() == 200 && answer.complete()))
    })
    .await
}
