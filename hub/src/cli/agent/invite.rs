//! `agent invite`: a join token for somebody who owns resources.
//!
//! Invariant: a token that no agent could use is not made.

use std::time::Duration;

use clap::Args;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::AgentId;
use serde::Serialize;

use crate::cli::text;
use crate::config::Config;
use crate::registry::Invitation;
use crate::registry::Registry;

#[derive(Debug, Args)]
pub(in crate::cli) struct InviteArgs {
    /// What to call the agent; unique. Default: made of its id.
    #[arg(long)]
    name: Option<String>,
    /// How long the token is good: 90s, 15m, 12h, 7d.
    #[arg(long, default_value = "15m", value_parser = text::duration)]
    ttl: Duration,
    /// host:port where the agent reaches the tunnel. Default: tunnel.public_address.
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Another token for an agent that exists (its id or name): the first one
    /// expired, or the agent is to `repin`.
    #[arg(long, value_name = "AGENT", conflicts_with = "name")]
    again: Option<String>,
}

pub(super) async fn invite(
    output: Output,
    config: &Config,
    registry: &Registry,
    args: InviteArgs,
) -> anyhow::Result<()> {
    let address = args.address.unwrap_or_else(|| config.tunnel_address());
    let reach = Reach::of(&address);
    if reach == Reach::Nowhere {
        let nowhere = Failure::new(ErrorCode::ConfigInvalid, format!("no agent can dial {address}"));
        let fix = "set tunnel.public_address, or give --address, to what agents can dial";
        return Err(nowhere.fix(fix).into());
    }
    let now = unix_ms_now();
    let invited = match args.again {
        None => registry.invite(args.name.as_deref(), &address, args.ttl, now).await,
        Some(again) => {
            let agent = super::find(registry, &again).await?;
            registry.invite_again(&agent, &address, args.ttl, now).await
        }
    };
    let answer = Invited::of(&invited.map_err(crate::cli::failure)?, reach);
    output.emit("invitation", &answer, || answer.to_text())?;
    if reach == Reach::ThisMachine {
        output.note(&format!(
            "warning: {address} is this machine only; for agents elsewhere set \
             tunnel.public_address or give --address"
        ));
    }
    Ok(())
}

/// From where an address can be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Elsewhere,
    ThisMachine,
    Nowhere,
}

impl Reach {
    fn of(address: &str) -> Self {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.eq_ignore_ascii_case("localhost") {
            return Self::ThisMachine;
        }
        match host.parse::<std::net::IpAddr>() {
            Ok(ip) if ip.is_loopback() => Self::ThisMachine,
            Ok(ip) if ip.is_unspecified() => Self::Nowhere,
            Ok(_) | Err(_) => Self::Elsewhere,
        }
    }
}

#[derive(Serialize)]
struct Invited {
    agent_id: AgentId,
    name: String,
    address: String,
    loopback: bool,
    expires_unix_ms: u64,
    token: String,
    command: String,
}

impl Invited {
    fn of(invited: &Invitation, reach: Reach) -> Self {
        let token = invited.token.encode();
        Self {
            agent_id: invited.agent,
            name: invited.name.clone(),
            address: invited.token.hub_address.clone(),
            loopback: reach == Reach::ThisMachine,
            expires_unix_ms: invited.token.expires_unix_ms,
            command: "keyhaven-agent join -".to_owned(),
            token,
        }
    }

    fn to_text(&self) -> String {
        format!(
            "agent    {} ({})\naddress  {}\nexpires  {}\ntoken    {}\n\n\
             On the agent's machine, once, paste the token and press Ctrl-D:\n\n  {}\n\n\
             or, where nobody is at a terminal:\n\n  KEYHAVEN_AGENT_JOIN_TOKEN=... keyhaven-agent up\n",
            self.name,
            self.agent_id,
            self.address,
            text::time(self.expires_unix_ms),
            self.token,
            self.command,
        )
    }
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::join_token::JoinToken;

    use super::*;
    use crate::keys::HubKeys;
    use crate::keys::OfflineFiles;
    use crate::registry::INVITATION_TTL;

    #[tokio::test]
    async fn an_invitation_prints_a_token_and_the_command_that_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        HubKeys::init(dir.path(), OfflineFiles::default()).unwrap();
        let registry = Registry::open(dir.path(), None).await.unwrap();
        let address = "hub.example.org:9010";
        let invited = registry.invite(Some("office"), address, INVITATION_TTL, 0).await.unwrap();

        let answer = Invited::of(&invited, Reach::of(address));

        let text = answer.to_text();
        let token = text.lines().find_map(|line| line.strip_prefix("token    ")).unwrap();
        assert_eq!(JoinToken::decode(token).unwrap().agent, invited.agent);
        assert!(text.contains("\n  keyhaven-agent join -\n"), "{text}");
        assert_eq!(text.matches("kh1_").count(), 1, "a token in a command would be seen by everybody: {text}");
        assert!(text.contains("expires  1970-01-01T00:15:00Z"), "{text}");
        assert!(!answer.loopback);
    }

    #[test]
    fn the_reach_of_an_address_is_told_before_an_agent_finds_out() {
        for address in ["127.0.0.1:9010", "localhost:1", "[::1]:9010", "127.8.8.8:1"] {
            assert_eq!(Reach::of(address), Reach::ThisMachine, "{address}");
        }
        for address in ["0.0.0.0:9010", "[::]:9010"] {
            assert_eq!(Reach::of(address), Reach::Nowhere, "{address}");
        }
        for address in ["hub.example.org:9010", "10.1.2.3:9010", "[fd00::1]:9010"] {
            assert_eq!(Reach::of(address), Reach::Elsewhere, "{address}");
        }
    }
}
