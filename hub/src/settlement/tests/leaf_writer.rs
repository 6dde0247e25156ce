//! An agent's ledger for tests: real leaves, chains and signatures, without an agent.
//!
//! Invariant: what it signs is what an honest agent would sign, unless it is asked for something else.

use ed25519_dalek::SigningKey;
use keyhaven_protocol::chain::Chain;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::chain::Group;
use keyhaven_protocol::frame::LedgerHead;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::id::HubNodeId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::leaf::Adjust;
use keyhaven_protocol::leaf::AdjustReason;
use keyhaven_protocol::leaf::Close;
use keyhaven_protocol::leaf::EpochReason;
use keyhaven_protocol::leaf::EpochStart;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Leaf;
use keyhaven_protocol::leaf::Metered;
use keyhaven_protocol::leaf::Purpose;
use keyhaven_protocol::metering::Outcome;
use keyhaven_protocol::metering::Rule;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::sealed::Payer;
use keyhaven_protocol::sealed::SealedFor;
use keyhaven_protocol::signing::Hash;
use keyhaven_protocol::statement::Stated;
use keyhaven_protocol::statement::Statement;
use keyhaven_protocol::ticket::SignedTicket;
use keyhaven_protocol::ticket::Ticket;
use keyhaven_protocol::usage::Doubts;
use keyhaven_protocol::usage::Meters;

use super::super::Answer;
use super::super::Answers;
use super::super::BookKeys;
use super::super::Books;
use super::super::Greeted;
use super::super::Read;
use super::ACCOUNT;
use super::AGENT;
use super::KEY;

/// The most that its attempts may cost.
pub(in crate::settlement) const CEILING: NanoUsd = NanoUsd(1_000_000);

/// An agent that writes leaves.
#[derive(Clone)]
pub(in crate::settlement) struct LeafWriter {
    pub(in crate::settlement) chain: Chain,
    key: SigningKey,
    /// Not signed yet.
    pending: Vec<Vec<u8>>,
    /// All that was signed.
    pub(in crate::settlement) groups: Vec<Group>,
    tickets: Vec<((CallId, u8), Hash)>,
    hashes: Vec<Hash>,
    pub(in crate::settlement) stated: Stated,
    /// What it was told, statement by statement.
    pub(in crate::settlement) told: Vec<Statement>,
    /// The newest cosigned head.
    pub(in crate::settlement) cosigned: Vec<u8>,
    /// Who orders: the boot in tickets.
    pub(in crate::settlement) boot: BootId,
}

impl LeafWriter {
    /// A ledger that begins.
    pub(in crate::settlement) fn new(boot: BootId) -> Self {
        Self::of(AGENT, 0, boot)
    }

    pub(in crate::settlement) fn of(agent: AgentId, epoch: u32, boot: BootId) -> Self {
        let fleet = FleetId([1; 16]);
        let id = ChainId { fleet, purpose: Purpose::Calls, agent, epoch };
        let key = SigningKey::from_bytes(&[24; 32]);
        let mut writer = Self {
            chain: Chain::new(id),
            key,
            pending: Vec::new(),
            groups: Vec::new(),
            tickets: Vec::new(),
            hashes: Vec::new(),
            stated: Stated::NOTHING,
            told: Vec::new(),
            cosigned: Vec::new(),
            boot,
        };
        let key = Hex(writer.public_key());
        let (purpose, reason) = (Purpose::Calls, EpochReason::First);
        writer.append(Event::Epoch(EpochStart { fleet, purpose, key, reason, previous: None }));
        writer
    }

    pub(in crate::settlement) fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    pub(in crate::settlement) fn append(&mut self, event: Event) -> Hash {
        let leaf = self.chain.append(1_700_000_000_000, event).unwrap();
        let hash = Leaf::hash(&leaf);
        self.hashes.push(hash);
        self.pending.push(leaf);
        hash
    }

    /// The ticket of an attempt at a call.
    pub(in crate::settlement) fn ticket(&self, call: CallId, attempt: u8) -> Ticket {
        let keys = BookKeys::samples();
        let at = SealedFor { fleet: keys.fleet(), call, attempt };
        let payer = Payer { account: ACCOUNT, key: KEY, zone: Ppm(1_000_000), hold: CEILING };
        Ticket {
            fleet: at.fleet,
            hub_node: HubNodeId([2; 16]),
            boot: self.boot,
            signing_key: 0,
            call,
            attempt,
            agent: self.chain.id().agent,
            vendor_key: VendorKeyId([6; 16]),
            endpoint: 101,
            model: "gpt-4o".to_owned(),
            price_version: 1,
            price_hash: Hex([1; 32]),
            meter_rules: 1,
            zone: Ppm(1_000_000),
            tier: Ppm(500_000),
            ceiling: CEILING,
            deadline_ms: 600_000,
            payer: keys.archive.seal_payer(&payer, at, [9; 24]),
        }
    }

    pub(in crate::settlement) fn open(&mut self, call: CallId, attempt: u8) {
        let signed = self.ticket(call, attempt).sign(&BookKeys::samples().signing);
        self.open_by(signed);
    }

    pub(in crate::settlement) fn open_by(&mut self, signed: SignedTicket) {
        let ticket = signed.ticket();
        self.tickets.push(((ticket.call, ticket.attempt), signed.hash()));
        self.append(Event::Open(signed));
    }

    /// CLOSE with this figure, or without one.
    pub(in crate::settlement) fn close(&mut self, call: CallId, attempt: u8, list: Option<i64>) -> Hash {
        let ticket = self.tickets.iter().find(|(of, _)| *of == (call, attempt)).map_or(Hex([0; 32]), |(_, hash)| *hash);
        self.append(Event::Close(Close {
            call,
            attempt,
            ticket,
            status: Some(200),
            vendor_ended: true,
            metered: list.map(metered),
            request_bytes: 1,
            vendor_bytes: 100,
            request_digest: None,
            response_digest: None,
            vendor_request: None,
            lasted_ms: 5,
        }))
    }

    pub(in crate::settlement) fn adjust(&mut self, call: CallId, attempt: u8, corrects: Hash, list: i64) -> Hash {
        let (list, reason) = (NanoUsd(list), AdjustReason::OwnError);
        self.append(Event::Adjust(Adjust { call, attempt, corrects, list, reason }))
    }

    /// OPEN and CLOSE of one attempt.
    pub(in crate::settlement) fn serve(&mut self, call: CallId, attempt: u8, list: i64) {
        self.open(call, attempt);
        self.close(call, attempt, Some(list));
    }

    /// What is pending, signed.
    pub(in crate::settlement) fn sign(&mut self) -> Group {
        let leaves = std::mem::take(&mut self.pending);
        let group = Group::sign(&self.chain.id(), &self.key, leaves, self.chain.head()).unwrap();
        self.groups.push(group.clone());
        group
    }

    pub(in crate::settlement) fn stands(&self) -> LedgerHead {
        let Head { size, hash } = self.chain.head();
        LedgerHead { epoch: self.chain.id().epoch, size, head: hash, statements: self.stated.statements }
    }

    pub(in crate::settlement) async fn greet(&self, books: &Books) -> Greeted {
        let id = self.chain.id();
        books.greet(id.agent, &self.public_key(), self.stands(), &self.cosigned).await.unwrap()
    }

    /// Links: says where it stands, and sends all that the books do not have, as one that has lost
    /// its link would. Returns what the books say to it from then on.
    pub(in crate::settlement) async fn link(&self, books: &Books) -> Answers {
        let id = self.chain.id();
        let answers = books.listen(id.agent, id.epoch);
        let Greeted::Welcome { next, reader, .. } = self.greet(books).await else { panic!("it is welcome") };
        let mut reader = *reader;
        for group in self.groups.iter().filter(|group| group.first() >= next) {
            match reader.read(group.clone()).unwrap() {
                Read::Next(group) => books.take_in(*group).await,
                Read::Fork(_) => panic!("it is the same history"),
            }
        }
        answers
    }

    /// Signs what is pending, sends it, and takes what is said until all of it is stated.
    pub(in crate::settlement) async fn commit(&mut self, books: &Books) {
        self.sign();
        let mut answers = self.link(books).await;
        self.hear_out(books, &mut answers).await;
    }

    /// Takes what is said until every leaf has a line.
    pub(in crate::settlement) async fn hear_out(&mut self, books: &Books, answers: &mut Answers) {
        while self.stated.leaves < self.chain.head().size {
            self.hear(books, answers).await;
        }
    }

    /// Takes what is said next, as an agent does: verified, and kept.
    pub(in crate::settlement) async fn hear(&mut self, books: &Books, answers: &mut Answers) {
        let answer = tokio::time::timeout(std::time::Duration::from_secs(20), answers.next()).await;
        let Some(Answer::Committed { number, .. }) = answer.expect("something is said") else {
            panic!("the books take it")
        };
        let id = self.chain.id();
        for missed in books.statements(id.agent, id.epoch, self.stated.statements).await.unwrap() {
            if self.stated.statements <= number {
                self.take(&missed);
            }
        }
    }

    pub(in crate::settlement) fn take(&mut self, answer: &Answer) {
        let Answer::Committed { statement, cosigned, .. } = answer else { panic!("a statement") };
        let (keys, id) = (BookKeys::samples(), self.chain.id());
        let hash = |number: u64| self.hashes.get(usize::try_from(number).unwrap()).copied();
        self.told.push(self.stated.take(statement, &id, &keys.list, 0, hash).unwrap());
        self.cosigned = cosigned.clone();
    }

    /// Every reason that it was ever told, by the number of the leaf; the last one of a leaf counts.
    pub(in crate::settlement) fn reasons(&self) -> Vec<&'static str> {
        let mut reasons = std::collections::BTreeMap::new();
        for statement in &self.told {
            for (number, line) in (statement.first_leaf..).zip(&statement.lines) {
                reasons.insert(number, line.reason.name());
            }
            for earlier in &statement.earlier {
                reasons.insert(earlier.number, earlier.line.reason.name());
            }
        }
        reasons.into_values().collect()
    }

    /// What it was credited, by its statements.
    pub(in crate::settlement) fn credited(&self) -> i64 {
        let earlier =
            |statement: &Statement| statement.earlier.iter().map(|earlier| earlier.line.clone()).collect::<Vec<_>>();
        let lines = self.told.iter().flat_map(|statement| statement.lines.iter().cloned().chain(earlier(statement)));
        lines.filter_map(|line| line.settled).map(|settled| settled.credit.0).sum()
    }
}

pub(in crate::settlement) fn metered(list: i64) -> Metered {
    Metered {
        outcome: Outcome::Complete,
        rule: Rule::Stated,
        doubts: Doubts::default(),
        tier: ServiceTier::Standard,
        model: None,
        meters: Meters::default(),
        heard_model: None,
        heard: Meters::default(),
        list: NanoUsd(list),
        response_bytes: 100,
        elapsed_ms: 0,
    }
}
