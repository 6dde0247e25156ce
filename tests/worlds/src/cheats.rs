//! An owner who writes the ledger by hand.
//!
//! Invariant: a cheat has its own key and whatever the hub sent it, and no other key.

use crate::agent::Agent;
use crate::books::AGENTS;
use crate::hub::Batch;
use crate::hub::HUBS;
use crate::random::mix;
use crate::records::Figure;
use crate::records::Leaf;
use crate::records::Said;
use crate::records::Ticket;
use crate::records::group_signature;
use crate::world::Cheats;
use crate::world::Up;
use crate::world::World;

/// Leaves that the owner goes back to.
const BACK_MAX: usize = 24;

impl World {
    /// What an owner does beside serving: takes less, or cheats.
    pub(crate) fn owner(&mut self, agent: usize, hub: usize) {
        if self.random.once_in(6) {
            self.lower_one(agent);
        }
        if self.agents[agent].cheats {
            self.seen.cheats += 1;
            self.cheat(agent, hub);
        }
    }

    /// ADJUST: the owner takes less for an attempt that is closed.
    fn lower_one(&mut self, agent: usize) {
        let Some((call, attempt, hash, list)) = self.closed_one(agent) else { return };
        let less = self.random.amount(u32::try_from(list.max(1)).unwrap_or(u32::MAX));
        if less < list {
            self.append(agent, Said::Adjust { call, attempt, corrects: hash, list: less });
        }
    }

    /// One of the newest attempts that are closed with a figure, and what stands of it.
    fn closed_one(&mut self, agent: usize) -> Option<(u32, u8, u64, i64)> {
        let log = &self.agents[agent].log;
        let from = log.len().saturating_sub(BACK_MAX);
        let which = self.random.below(BACK_MAX);
        let Said::Close { call, attempt, figure: Some(figure), .. } = log.get(from + which)?.said else { return None };
        let closed = log[from + which].hash;
        let lower = log[from + which..].iter().rev().find_map(|leaf| match leaf.said {
            Said::Adjust { call: of, attempt: try_of, list, .. } if (of, try_of) == (call, attempt) => {
                Some((leaf.hash, list))
            }
            Said::Epoch | Said::Open(_) | Said::Close { .. } | Said::Adjust { .. } => None,
        });
        let (hash, list) = lower.unwrap_or((closed, figure.list));
        (list > 0).then_some((call, attempt, hash, list))
    }

    /// Instead of the figure that was metered.
    pub(crate) fn cheated_figure(&mut self, metered: Figure, ticket: &Ticket) -> Figure {
        let bytes = if self.random.once_in(2) { metered.bytes } else { metered.bytes + 9 };
        let list = match self.random.below(5) {
            0 => ticket.ceiling,
            1 => ticket.ceiling + 1 + self.random.amount(1_000_000),
            2 => metered.list / 2,
            3 => metered.list + 1,
            _ => metered.list,
        };
        Figure { list, bytes }
    }

    fn cheat(&mut self, agent: usize, hub: usize) {
        match self.random.below(8) {
            0 => self.forge(agent),
            1 => self.steal(agent),
            2 => self.repeat(agent),
            3 => self.rewrite(agent),
            4 => self.withhold(agent),
            5 => {
                for hub in 0..HUBS {
                    self.cut(agent, hub);
                }
                self.begin_epoch(agent);
            }
            6 => self.raise(agent),
            _ => self.send_nonsense(agent, hub),
        }
    }

    /// Work that was never ordered, by a ticket that the hub did not sign.
    fn forge(&mut self, agent: usize) {
        let call = self.random.below_u32(u32::try_from(self.truth.len()).expect("few calls") + 1);
        let truth = self.truth.get(call as usize).copied().unwrap_or_default();
        let (zone, tier, ceiling) = (truth.zone, truth.tier, 5_000_000);
        let attempt = 1 + u8::try_from(self.random.below(3)).expect("few attempts");
        let (boot, consumer) = (self.hubs[0].boot, truth.consumer);
        let agent_number = u8::try_from(agent).expect("few agents");
        let ticket = Ticket { call, attempt, agent: agent_number, consumer, boot, zone, tier, ceiling, signature: 0 };
        let ticket = ticket.forged(self.random.next());
        self.claim_all(agent, ticket);
    }

    /// Work that another was ordered to do.
    fn steal(&mut self, agent: usize) {
        let other = &self.agents[(agent + 1) % AGENTS];
        let opened = |leaf: &Leaf| match leaf.said {
            Said::Open(ticket) => Some(ticket),
            Said::Epoch | Said::Close { .. } | Said::Adjust { .. } => None,
        };
        if let Some(ticket) = other.log.iter().rev().find_map(opened) {
            self.claim_all(agent, ticket);
        }
    }

    /// Work that was paid before, in this chain or in a new one.
    fn repeat(&mut self, agent: usize) {
        let chains = self.agents[agent].past.iter().chain([&self.agents[agent].log]);
        let tickets: Vec<Ticket> = chains
            .flat_map(|chain| chain.iter().rev().take(BACK_MAX))
            .filter_map(|leaf| if let Said::Open(ticket) = leaf.said { Some(ticket) } else { None })
            .collect();
        if !tickets.is_empty() {
            let ticket = tickets[self.random.below(tickets.len())];
            self.claim_all(agent, ticket);
        }
    }

    /// OPEN and CLOSE with all that the ticket allows.
    fn claim_all(&mut self, agent: usize, ticket: Ticket) {
        let Ticket { call, attempt, ceiling, .. } = ticket;
        self.append(agent, Said::Open(ticket));
        let figure = Some(Figure { list: ceiling, bytes: 7 });
        self.append(agent, Said::Close { call, attempt, ticket: ticket.hash(), figure });
    }

    /// A leaf that the hub may have says more now, and all after it is written again.
    fn rewrite(&mut self, agent: usize) {
        let log = &mut self.agents[agent].log;
        let from = log.len().saturating_sub(BACK_MAX).max(1);
        if from >= log.len() {
            return;
        }
        let which = from + self.random.below(log.len() - from);
        let mut before = log[which - 1].hash;
        for leaf in &mut log[which..] {
            if let Said::Close { figure: Some(figure), .. } = &mut leaf.said {
                figure.list += 1;
            }
            *leaf = Leaf::after(before, mix(leaf.at), leaf.said);
            before = leaf.hash;
        }
    }

    /// The newest leaves are never sent; what comes stands in their place.
    fn withhold(&mut self, agent: usize) {
        let back = self.random.below(8);
        for hub in 0..HUBS {
            self.cut(agent, hub);
        }
        let agent = &mut self.agents[agent];
        let keeps = agent.log.len().saturating_sub(back).max(1);
        agent.log.truncate(keeps);
        agent.durable = agent.durable.min(keeps as u64);
        agent.running.clear();
    }

    /// An ADJUST that says more.
    fn raise(&mut self, agent: usize) {
        if let Some((call, attempt, hash, list)) = self.closed_one(agent) {
            self.append(agent, Said::Adjust { call, attempt, corrects: hash, list: list * 2 });
        }
    }

    /// Leaves out of order, twice, or signed by somebody else.
    fn send_nonsense(&mut self, agent: usize, hub: usize) {
        let Agent { log, epoch, .. } = &self.agents[agent];
        let (epoch, size) = (*epoch, log.len());
        let first = self.random.below(size);
        let count = 1 + self.random.below(6);
        let leaves: Vec<Leaf> = log[first..size.min(first + count)].to_vec();
        let newest = leaves.last().map_or(0, |leaf| leaf.hash);
        let end = (first + leaves.len()) as u64;
        let signer = if self.random.once_in(3) { 0 } else { agent };
        let signature = group_signature(signer, epoch, end, newest);
        let first = if self.random.once_in(4) { first as u64 + 3 } else { first as u64 };
        let group = self.real_group(agent, signer, first, &leaves);
        if let Some(link) = &mut self.links[agent][hub] {
            link.up.push_back(Up::Claim(Batch { agent, link: 0, epoch, first, leaves, signature, group }));
        }
    }
}

impl Cheats {
    pub(crate) const ALL: [Self; 4] = [Self::Nobody, Self::Owners, Self::Consumers, Self::Both];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody cheats",
            Self::Owners => "owners cheat",
            Self::Consumers => "consumers cheat",
            Self::Both => "owners and consumers cheat",
        }
    }
}
