//! What is shown of an agent: its row in the database and, if the hub runs, its link.
//!
//! Invariant: linked is yes or no only if the hub was asked; otherwise it is not known.

use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::TokenId;
use serde::Serialize;
use serde_json::Value;

use crate::cli::admin_client;
use crate::cli::status;
use crate::cli::text;
use crate::config::Config;
use crate::store::agents::Agent;
use crate::store::agents::AgentState;
use crate::store::join_tokens::Token;
use crate::store::join_tokens::TokenState;

/// What the running hub knows beyond the database.
pub(super) enum Live {
    NotAsked,
    NotRunning,
    Running(Value),
}

impl Live {
    pub(super) async fn ask(output: Output, config: &Config) -> Self {
        match admin_client::status(config.admin.listen).await {
            Ok(Some(status)) => Self::Running(status),
            Ok(None) => {
                output.note("the hub does not run: no agent is linked now");
                Self::NotRunning
            }
            Err(failure) => {
                output.note(&format!("who is linked is not known: {failure}"));
                Self::NotAsked
            }
        }
    }

    pub(super) const fn is_running(&self) -> Option<bool> {
        match self {
            Self::NotAsked => None,
            Self::NotRunning => Some(false),
            Self::Running(_) => Some(true),
        }
    }

    pub(super) fn link_of(&self, id: AgentId) -> Option<&Value> {
        let Self::Running(status) = self else {
            return None;
        };
        let id = id.to_string();
        status::links(status).find(|link| link["agent_id"].as_str() == Some(&id))
    }

    fn is_linked(&self, id: AgentId) -> Option<bool> {
        self.is_running().map(|_| self.link_of(id).is_some())
    }
}

#[derive(Serialize)]
pub(super) struct Listed<'a> {
    hub_running: Option<bool>,
    agents: Vec<AgentView<'a>>,
}

impl<'a> Listed<'a> {
    pub(super) fn of(agents: &'a [Agent], live: &Live) -> Self {
        let views = agents.iter().map(|agent| AgentView::of(agent, live));
        Self { hub_running: live.is_running(), agents: views.collect() }
    }

    pub(super) fn to_text(&self) -> String {
        if self.agents.is_empty() {
            return "no agents yet; invite one: keyhaven-hub agent invite --name NAME".to_owned();
        }
        let rows = self.agents.iter().map(|agent| {
            vec![
                agent.agent_id.to_string(),
                agent.name.to_owned(),
                agent.state.to_string(),
                agent.linked_word().to_owned(),
                text::maybe_time(agent.last_seen_unix_ms),
                agent.offers.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        });
        let headers = ["ID", "NAME", "STATE", "LINKED", "LAST SEEN", "OFFERS"];
        table(&headers, rows.collect())
    }
}

#[derive(Serialize)]
pub(super) struct AgentView<'a> {
    pub(super) agent_id: AgentId,
    pub(super) name: &'a str,
    pub(super) state: AgentState,
    linked: Option<bool>,
    offers: Option<String>,
    created_unix_ms: u64,
    first_linked_unix_ms: Option<u64>,
    last_seen_unix_ms: Option<u64>,
    suspended_until_unix_ms: Option<u64>,
}

impl<'a> AgentView<'a> {
    pub(super) fn of(agent: &'a Agent, live: &Live) -> Self {
        Self {
            agent_id: agent.id,
            name: &agent.name,
            state: agent.state,
            linked: live.is_linked(agent.id),
            offers: live.link_of(agent.id).map(status::offers),
            created_unix_ms: agent.created_unix_ms,
            first_linked_unix_ms: agent.first_linked_unix_ms,
            last_seen_unix_ms: agent.last_seen_unix_ms,
            suspended_until_unix_ms: agent.suspended_until_unix_ms,
        }
    }

    const fn linked_word(&self) -> &'static str {
        match self.linked {
            Some(true) => "yes",
            Some(false) => "no",
            None => "?",
        }
    }
}

#[derive(Serialize)]
pub(super) struct Shown<'a> {
    #[serde(flatten)]
    agent: AgentView<'a>,
    public_key: Option<Hex<32>>,
    join_tokens: Vec<TokenView>,
    link: Option<Value>,
}

impl<'a> Shown<'a> {
    pub(super) fn of(agent: &'a Agent, tokens: &[Token], live: &Live) -> Self {
        Self {
            agent: AgentView::of(agent, live),
            public_key: agent.public_key.map(Hex),
            join_tokens: tokens.iter().map(TokenView::of).collect(),
            link: live.link_of(agent.id).cloned(),
        }
    }

    pub(super) fn to_text(&self) -> String {
        let agent = &self.agent;
        let key = self.public_key.map_or_else(|| "-".to_owned(), |key| key.to_string());
        let mut text = format!(
            "agent            {} ({})\nstate            {}\nlinked           {}\n\
             offers           {}\npublic key       {key}\ninvited          {}\n\
             first linked     {}\nlast seen        {}\nsuspended until  {}\n",
            agent.name,
            agent.agent_id,
            agent.state,
            agent.linked_word(),
            agent.offers.as_deref().unwrap_or("-"),
            text::time(agent.created_unix_ms),
            text::maybe_time(agent.first_linked_unix_ms),
            text::maybe_time(agent.last_seen_unix_ms),
            text::maybe_time(agent.suspended_until_unix_ms),
        );
        for token in &self.join_tokens {
            let expires = text::time(token.expires_unix_ms);
            text += &format!("join token       {} {}, expires {expires}\n", token.token_id, token.state);
        }
        text
    }
}

#[derive(Serialize)]
struct TokenView {
    token_id: TokenId,
    state: &'static str,
    created_unix_ms: u64,
    expires_unix_ms: u64,
}

impl TokenView {
    const fn of(token: &Token) -> Self {
        Self {
            token_id: token.id,
            state: match token.state {
                TokenState::Issued => "issued",
                TokenState::Bound => "bound",
                TokenState::Used => "used",
            },
            created_unix_ms: token.created_unix_ms,
            expires_unix_ms: token.expires_unix_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whether_an_agent_is_linked_is_yes_no_or_not_known() {
        let agent = agent();
        let running = Live::Running(json!({"links": [{
            "agent_id": agent.id.to_string(),
            "offers": [{"provider": "openai", "resource": null, "models": 2}],
        }]}));
        let without = Live::Running(json!({"links": []}));

        let linked = AgentView::of(&agent, &running);

        assert_eq!(linked.linked_word(), "yes");
        assert_eq!(linked.offers.as_deref(), Some("openai"));
        assert_eq!(AgentView::of(&agent, &without).linked_word(), "no");
        assert_eq!(AgentView::of(&agent, &Live::NotRunning).linked_word(), "no");
        assert_eq!(AgentView::of(&agent, &Live::NotAsked).linked_word(), "?");
    }

    #[test]
    fn an_agent_in_json_has_these_fields() {
        let agent = agent();
        let shown = Shown::of(&agent, &[], &Live::NotRunning);

        assert_eq!(
            serde_json::to_value(&shown).unwrap(),
            json!({
                "agent_id": "ag_01010101010101010101010101010101",
                "name": "office",
                "state": "active",
                "linked": false,
                "offers": null,
                "created_unix_ms": 1,
                "first_linked_unix_ms": 2,
                "last_seen_unix_ms": 3,
                "suspended_until_unix_ms": null,
                "public_key": "02".repeat(32),
                "join_tokens": [],
                "link": null,
            })
        );
        assert!(shown.to_text().contains("suspended until  -"));
    }

    fn agent() -> Agent {
        Agent {
            id: AgentId([1; 16]),
            name: "office".to_owned(),
            state: AgentState::Active,
            public_key: Some([2; 32]),
            created_unix_ms: 1,
            first_linked_unix_ms: Some(2),
            last_seen_unix_ms: Some(3),
            suspended_until_unix_ms: None,
        }
    }
}
