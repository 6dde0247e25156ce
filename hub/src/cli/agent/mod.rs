//! `agent`: invitations, and what became of them.
//!
//! Invariant: what these commands change, they change in the database only; the running hub follows.

mod invite;
mod top;
mod view;

use std::time::Duration;

use clap::Args;
use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::AgentId;

use tokio::time::Instant;

use super::admin_client;
use super::confirm::Consent;
use super::status;
use super::text;
use crate::config::Config;
use crate::registry::Registry;
use crate::store::agents::Agent;
use crate::store::agents::AgentState;
use invite::InviteArgs;
use top::TopArgs;
use view::AgentView;
use view::Listed;
use view::Live;
use view::Shown;

/// How often a hub is asked whether an agent has finished.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub(super) enum AgentCommand {
    /// Make a join token for a new agent.
    Invite(InviteArgs),
    /// List all agents and whether they are linked.
    List,
    /// Show one agent, its join tokens and its link.
    Show {
        /// The agent's id or name.
        agent: String,
    },
    /// Watch what the linked agents do.
    Top(TopArgs),
    /// Give an agent no new calls; it finishes those it has.
    Drain(DrainArgs),
    /// Cut an agent off, for good.
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// The agent's id or name.
    agent: String,
    /// Give it calls again.
    #[arg(long)]
    undo: bool,
    /// Return when it has finished, or after so long: 30s, 10m.
    #[arg(long, value_name = "DURATION", value_parser = text::duration, conflicts_with = "undo")]
    wait: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// The agent's id or name.
    agent: String,
    #[command(flatten)]
    consent: Consent,
}

pub(super) async fn run(output: Output, config: &Config, command: AgentCommand) -> anyhow::Result<()> {
    if let AgentCommand::Top(args) = command {
        return top::run(output, config, args).await;
    }
    let registry = super::open(config).await?;
    let done = match command {
        AgentCommand::Top(_) => Ok(()),
        AgentCommand::Invite(args) => invite::invite(output, config, &registry, args).await,
        AgentCommand::List => list(output, config, &registry).await,
        AgentCommand::Show { agent } => show(output, config, &registry, &agent).await,
        AgentCommand::Drain(args) => drain(output, config, &registry, args).await,
        AgentCommand::Revoke(args) => revoke(output, &registry, args).await,
    };
    registry.store.close().await;
    done
}

async fn list(output: Output, config: &Config, registry: &Registry) -> anyhow::Result<()> {
    let agents = registry.store.agents().await.map_err(crate::cli::failure)?;
    let live = Live::ask(output, config).await;
    let answer = Listed::of(&agents, &live);
    output.emit("agents", &answer, || answer.to_text())?;
    Ok(())
}

async fn show(output: Output, config: &Config, registry: &Registry, wanted: &str) -> anyhow::Result<()> {
    let agent = find(registry, wanted).await?;
    let tokens = registry.store.tokens_of(agent.id).await.map_err(crate::cli::failure)?;
    let live = Live::ask(output, config).await;
    let answer = Shown::of(&agent, &tokens, &live);
    output.emit("agent", &answer, || answer.to_text())?;
    Ok(())
}

async fn drain(output: Output, config: &Config, registry: &Registry, args: DrainArgs) -> anyhow::Result<()> {
    let agent = find(registry, &args.agent).await?;
    let (goal, changed) = if args.undo {
        (AgentState::Active, registry.store.undrain_agent(agent.id).await)
    } else {
        (AgentState::Draining, registry.store.drain_agent(agent.id).await)
    };
    let changed = changed.map_err(crate::cli::failure)?;
    let agent = find(registry, &agent.id.to_string()).await?;
    if agent.state != goal {
        let detail = format!("{} is {}, and cannot become {goal}", agent.name, agent.state);
        return Err(Failure::new(ErrorCode::UsageInvalid, detail)
            .fix("only an active agent is drained, and only a draining one is taken back")
            .into());
    }
    if !changed {
        output.note("it was so before; nothing was done");
    }
    if let Some(patience) = args.wait {
        until_idle(output, config, &agent, patience).await?;
    }
    emit_state(output, &agent)
}

/// Returns when the running hub gives the agent no more calls and none is under way.
async fn until_idle(output: Output, config: &Config, agent: &Agent, patience: Duration) -> Result<(), Failure> {
    let id = agent.id.to_string();
    let began = Instant::now();
    loop {
        let answer = admin_client::links(config.admin.listen).await?.unwrap_or_default();
        let mut links = status::links(&answer).filter(|link| link["agent_id"].as_str() == Some(&id));
        let busy = links.find(|link| link["state"] == "open" || link["streams"] != 0);
        let Some(busy) = busy else {
            output.note("it has no call under way");
            return Ok(());
        };
        if began.elapsed() >= patience {
            let detail = if busy["state"] == "open" {
                format!("the hub has not begun to drain {} yet", agent.name)
            } else {
                format!("{} still has {} calls under way", agent.name, busy["streams"])
            };
            return Err(Failure::new(ErrorCode::DrainUnfinished, detail));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn revoke(output: Output, registry: &Registry, args: RevokeArgs) -> anyhow::Result<()> {
    let agent = find(registry, &args.agent).await?;
    if agent.state == AgentState::Revoked {
        output.note("it was revoked before; nothing was done");
    } else if args.consent.dry_run {
        output.note("would be revoked; nothing was done");
    } else {
        let question =
            format!("Revoke {} ({})? Its link is cut at once, and it can never come back.", agent.name, agent.id);
        args.consent.ask(&question)?;
        let revoked = registry.store.revoke_agent(agent.id).await;
        revoked.map_err(crate::cli::failure)?;
    }
    let agent = find(registry, &agent.id.to_string()).await?;
    emit_state(output, &agent)
}

fn emit_state(output: Output, agent: &Agent) -> anyhow::Result<()> {
    let view = AgentView::of(agent, &Live::NotAsked);
    output.emit("agent-state", &view, || format!("{}  {}  {}", view.agent_id, view.name, view.state))?;
    Ok(())
}

pub(super) async fn find(registry: &Registry, wanted: &str) -> Result<Agent, Failure> {
    let found = match wanted.parse::<AgentId>() {
        Ok(id) => registry.store.agent(id).await?,
        Err(_) => registry.store.agent_named(wanted).await?,
    };
    found.ok_or_else(|| Failure::new(ErrorCode::AgentUnknown, format!("{wanted:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::HubKeys;
    use crate::keys::OfflineFiles;
    use crate::registry::INVITATION_TTL;

    #[tokio::test]
    async fn an_agent_is_found_by_id_and_by_name() {
        let (_dir, registry) = registry().await;
        let invited = registry.invite(Some("office"), "h:1", INVITATION_TTL, 0).await.unwrap();

        let by_name = find(&registry, "office").await.unwrap();
        let by_id = find(&registry, &invited.agent.to_string()).await.unwrap();
        let nobody = find(&registry, "nobody").await.unwrap_err();

        assert_eq!(by_name, by_id);
        assert_eq!(nobody.code(), ErrorCode::AgentUnknown);
    }

    #[tokio::test]
    async fn an_invited_agent_cannot_be_drained_and_a_revoked_one_stays_so() {
        let (_dir, registry) = registry().await;
        let output = Output::new(false);
        registry.invite(Some("office"), "h:1", INVITATION_TTL, 0).await.unwrap();

        let config = Config::default();
        let args = |undo| DrainArgs { agent: "office".to_owned(), undo, wait: None };
        let drained = drain(output, &config, &registry, args(false)).await.unwrap_err();

        assert!(drained.to_string().contains("office is invited"), "{drained}");
        let agent = find(&registry, "office").await.unwrap();
        registry.store.revoke_agent(agent.id).await.unwrap();
        assert!(drain(output, &config, &registry, args(true)).await.is_err());
    }

    async fn registry() -> (tempfile::TempDir, Registry) {
        let dir = tempfile::tempdir().unwrap();
        HubKeys::init(dir.path(), OfflineFiles::default()).unwrap();
        let registry = Registry::open(dir.path(), None).await.unwrap();
        (dir, registry)
    }
}
