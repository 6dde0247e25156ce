//! Agents, hubs, consumers, one database, and what happens to them.
//!
//! Invariant: a seed and a setting give one history; every choice is drawn from the one stream.

use std::collections::VecDeque;
use std::rc::Rc;

use keyhaven_protocol::ledger_sync::HubHalf;
use keyhaven_protocol::statement::Statement;

use crate::agent::Agent;
use crate::books::AGENTS;
use crate::books::Books;
use crate::books::CONSUMERS;
use crate::books::Op;
use crate::hub::Batch;
use crate::hub::HUBS;
use crate::hub::Hub;
use crate::mutant::Mutant;
use crate::random::Random;
use crate::random::mix;
use crate::records::Ticket;
use crate::records::narrow;
use crate::truth::Call;

/// Who cheats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Cheats {
    /// Everybody is honest.
    Nobody,
    /// Two of three owners.
    Owners,
    /// Consumers leave, repeat keys, and spend what they have more than once.
    Consumers,
    /// Both.
    Both,
}

/// What kind of world it is, besides its seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) cheats: Cheats,
    pub(crate) mutant: Option<Mutant>,
    /// Requests after which no more come.
    pub(crate) requests: u32,
}

pub(crate) enum Up {
    /// Leaves; which link they come on is the hub's to say.
    Claim(Batch),
    Bytes {
        call: u32,
        attempt: u8,
        units: u32,
    },
    End {
        call: u32,
        attempt: u8,
    },
    Echo {
        call: u32,
        attempt: u8,
    },
    Refused {
        call: u32,
        attempt: u8,
    },
}

pub(crate) enum Down {
    Open(Ticket),
    Abort { call: u32, attempt: u8 },
    Need(u64),
    Ack { next: u64, statement: Option<(Rc<Statement>, u64)> },
}

/// A link that is up: messages that are on it, in order.
pub(crate) struct Link {
    pub(crate) number: u64,
    pub(crate) up: VecDeque<Up>,
    pub(crate) down: VecDeque<Down>,
    /// This link carries the agent's ledger, of this epoch.
    pub(crate) is_ledger: bool,
    pub(crate) epoch: u32,
    pub(crate) half: HubHalf,
    /// Statements that were sent.
    pub(crate) sent: usize,
}

/// How often what happens, once in so many steps; 0: never.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    pub(crate) agent_crash: u64,
    pub(crate) hub_crash: u64,
    pub(crate) cut: u64,
    pub(crate) stall: u64,
    pub(crate) roll_back: u64,
    pub(crate) restore: u64,
    pub(crate) failed_batch: u64,
    pub(crate) leave: u64,
    pub(crate) retry: u64,
    pub(crate) subsidy: bool,
    /// Of each agent.
    pub(crate) budget: i64,
    pub(crate) deposit: i64,
}

macro_rules! counters {
    ($($name:ident,)*) => {
        /// What happened, to see that something did.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct Seen {
            $(pub(crate) $name: u64,)*
        }

        impl Seen {
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            pub(crate) fn each(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    requests, attempts, failovers, leaves, batches, failed_batches, claims_again, needs, agent_crashes, hub_crashes,
    cuts, stalls, fenced, swept, rollbacks, wipes, copies, epochs, left, refused_holds, replayed_keys, orders_refused,
    opened_lines, agreed, short, agent_above, agent_below, unobserved, amnesia, orphan_budget, late, refused, lowered,
    no_figure, suspense_returned, restated, false_orders, cheats, negative_accounts,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) setting: Setting,
    pub(crate) rates: Rates,
    pub(crate) now: u64,
    pub(crate) books: Books,
    pub(crate) agents: Vec<Agent>,
    pub(crate) hubs: Vec<Hub>,
    pub(crate) links: [[Option<Link>; HUBS]; AGENTS],
    pub(crate) link_numbers: u64,
    pub(crate) boots: u16,
    pub(crate) tokens: u64,
    pub(crate) truth: Vec<Call>,
    /// The most leaves that were ever committed, by agent and epoch.
    pub(crate) most: [Vec<u64>; AGENTS],
    /// How often anything was asked.
    pub(crate) asked: u32,
    pub(crate) keys: u32,
    /// Which call was served first for a key, and which others.
    pub(crate) served_keys: Vec<Vec<u32>>,
    pub(crate) claimed: [u64; AGENTS],
    pub(crate) seen: Seen,
    pub(crate) is_busy: bool,
    pub(crate) real: Option<Box<crate::real::Real>>,
}

/// What a world came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) seen: Seen,
    /// Of everything that is in the books at the end.
    pub(crate) fingerprint: u64,
}

impl World {
    pub(crate) fn run(seed: u64, setting: Setting, is_real: bool) -> Result<Outcome, String> {
        let mut world = Self::new(seed, setting, is_real);
        while world.asked < setting.requests {
            world.step()?;
        }
        for _ in 0..100 {
            world.step()?;
        }
        world.come_to_rest()?;
        world.forget_in_silence()?;
        world.close_down()?;
        world.check()?;
        Ok(Outcome { seen: world.seen, fingerprint: world.fingerprint() })
    }

    fn new(seed: u64, setting: Setting, is_real: bool) -> Self {
        let mut random = Random::new(seed);
        let (owners, consumers) = match setting.cheats {
            Cheats::Nobody => (false, false),
            Cheats::Owners => (true, false),
            Cheats::Consumers => (false, true),
            Cheats::Both => (true, true),
        };
        let rates = Rates::draw(&mut random, owners, consumers);
        let agents = (0..AGENTS).map(|agent| Agent::new(agent as u64, owners && agent != 0)).collect();
        let mut books = Books::new([rates.deposit; CONSUMERS], rates.budget);
        books.checks_tickets = setting.mutant != Some(Mutant::SkipsTickets);
        let mut world = Self {
            random,
            setting,
            rates,
            now: 1_000_000,
            books,
            agents,
            hubs: Vec::new(),
            links: Default::default(),
            link_numbers: 0,
            boots: 0,
            tokens: 0,
            truth: Vec::with_capacity(setting.requests as usize),
            most: Default::default(),
            asked: 0,
            keys: 0,
            served_keys: Vec::new(),
            claimed: [0; AGENTS],
            seen: Seen::default(),
            is_busy: true,
            real: is_real.then(|| Box::new(crate::real::Real::new())),
        };
        for hub in 0..HUBS {
            let boot = world.next_boot();
            world.hubs.push(Hub::new(boot));
            world.books.record(Op::Boot(boot));
            world.end_transaction(hub);
        }
        for agent in 0..AGENTS {
            world.agents[agent].sync();
        }
        world
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.setting.mutant == Some(mutant)
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += 20;
        let (agent, hub) = (self.random.below(AGENTS), self.random.below(HUBS));
        match self.random.below(64) {
            0..9 => self.ask(hub),
            9..18 => self.vendor(agent),
            18..24 => self.flush(agent),
            24..29 => self.sync(agent),
            29..35 => self.send(agent),
            35..43 => self.deliver_up(agent, hub, 4)?,
            43..52 => self.deliver_down(agent, hub, 4)?,
            52..57 => self.write(hub)?,
            57 => self.observe(hub),
            58..60 => self.dial(agent, hub)?,
            60 => self.trouble(agent, hub)?,
            61 => self.consumer_leaves(hub),
            62 => self.owner(agent, hub),
            _ => self.rarely(agent, hub)?,
        }
        Ok(())
    }

    /// What goes wrong.
    fn trouble(&mut self, agent: usize, hub: usize) -> Result<(), String> {
        let rates = self.rates;
        if self.happens(rates.cut) {
            self.cut(agent, hub);
        }
        if self.happens(rates.agent_crash) {
            self.crash_agent(agent);
        }
        if self.happens(rates.hub_crash) {
            self.crash_hub(hub);
        }
        if self.happens(rates.stall) {
            self.stall(agent, hub);
        }
        if self.happens(rates.roll_back) {
            self.roll_back();
        }
        if self.happens(rates.restore) {
            self.restore(agent)?;
        }
        Ok(())
    }

    fn rarely(&mut self, agent: usize, hub: usize) -> Result<(), String> {
        self.restart_hub(hub);
        if self.random.once_in(8) {
            self.order_falsely(agent, hub);
        }
        if self.hubs[hub].is_stalled && self.random.once_in(3) {
            self.hubs[hub].is_stalled = false;
        }
        if self.agents[agent].is_stalled && self.random.once_in(2) {
            self.agents[agent].is_stalled = false;
        }
        self.sweep(hub)?;
        self.give_back_leases(hub);
        Ok(())
    }

    pub(crate) fn happens(&mut self, rate: u64) -> bool {
        rate > 0 && self.random.once_in(rate)
    }

    pub(crate) fn next_boot(&mut self) -> u16 {
        self.boots += 1;
        self.boots
    }

    /// Ends the transaction of a hub.
    pub(crate) fn end_transaction(&mut self, hub: usize) {
        self.tokens += 1;
        self.books.commit(self.tokens);
        self.hubs[hub].saw = self.books.newest();
    }

    fn fingerprint(&self) -> u64 {
        let mut sum = self.tokens;
        for entry in &self.books.entries {
            let moves = entry.moves;
            let amounts = [moves.consumer, moves.owed, moves.owner, moves.suspense, moves.margin];
            sum = amounts.iter().fold(sum, |sum, amount| mix(sum ^ amount.0.unsigned_abs()));
        }
        for chain in self.books.chains.iter().flatten() {
            sum = mix(sum ^ chain.newest());
            sum = mix(sum ^ narrow(&chain.stated.hash));
        }
        sum
    }
}

impl Rates {
    fn draw(random: &mut Random, owners: bool, consumers: bool) -> Self {
        let loses_books = random.once_in(2);
        let mut rate = |rate: u64| if random.once_in(4) { 0 } else { rate };
        let mut rates = Self {
            agent_crash: rate(12),
            hub_crash: rate(24),
            cut: rate(5),
            stall: rate(30),
            // An older copy of an agent in a fleet whose books forgot too is the rebuild's to mend.
            roll_back: if loses_books { rate(60) } else { 0 },
            restore: if loses_books { 0 } else { rate(60) },
            failed_batch: rate(25),
            leave: if consumers { 2 } else { rate(3) },
            retry: if consumers { 3 } else { 12 },
            subsidy: false,
            budget: 0,
            deposit: 0,
        };
        rates.subsidy = random.once_in(4);
        if owners || random.once_in(8) {
            rates.budget = random.amount(60_000);
        }
        rates.deposit = if consumers || random.once_in(8) { 300_000 } else { 1_000_000_000 };
        rates
    }
}
