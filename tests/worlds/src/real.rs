//! Real tickets, leaves, groups, statements and cosigned heads beside the stubs: every decision
//! that a stub makes is made again with the records and keys of `docs/LEDGER.md`.
//!
//! Invariant: whatever the stubs let through the records let through, and the other way; a
//! difference ends the world.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use keyhaven_protocol::chain::Audit;
use keyhaven_protocol::chain::Chain;
use keyhaven_protocol::chain::Group;
use keyhaven_protocol::chain::Verifier;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::id::HubNodeId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::key_list::KeyEntry;
use keyhaven_protocol::key_list::KeyList;
use keyhaven_protocol::leaf;
use keyhaven_protocol::leaf::EpochReason;
use keyhaven_protocol::leaf::EpochStart;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Purpose;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::sealed::ArchiveKey;
use keyhaven_protocol::sealed::Payer;
use keyhaven_protocol::sealed::SealedFor;
use keyhaven_protocol::signing::Hash;
use keyhaven_protocol::signing::hash_of;
use keyhaven_protocol::statement::Cosign;
use keyhaven_protocol::statement::Cosigned;
use keyhaven_protocol::statement::EarlierLine;
use keyhaven_protocol::statement::Line;
use keyhaven_protocol::statement::Stated;
use keyhaven_protocol::statement::Statement;
use keyhaven_protocol::ticket;
use keyhaven_protocol::ticket::Gate;
use keyhaven_protocol::ticket::Order;
use keyhaven_protocol::ticket::SignedTicket;

use crate::books::AGENTS;
use crate::books::chain_id;
use crate::hub::Batch;
use crate::records::Leaf;
use crate::records::Said;
use crate::records::Ticket;
use crate::records::adjust;
use crate::records::call_id;
use crate::records::close;
use crate::records::index;
use crate::records::narrow;
use crate::world::World;

const FLEET: FleetId = FleetId([1; 16]);
const VENDOR_KEY: VendorKeyId = VendorKeyId([6; 16]);
const ENDPOINT: u16 = 101;

pub(crate) struct Real {
    hub: SigningKey,
    agents: Vec<SigningKey>,
    keys: KeyList,
    archive: ArchiveKey,
    sealed: u64,
    /// By the stub's hash.
    tickets: HashMap<u64, SignedTicket>,
    leaves: HashMap<u64, Vec<u8>>,
    statements: HashMap<u64, Vec<u8>>,
    audits: HashMap<(u8, u32), (usize, Audit)>,
    /// Where the hub's statements stood after each, as each agent verified them.
    stated: [Vec<Stated>; AGENTS],
}

impl Real {
    pub(crate) fn new() -> Self {
        let (root, hub) = (SigningKey::from_bytes(&[2; 32]), SigningKey::from_bytes(&[3; 32]));
        let entry = KeyEntry::first(FLEET, &root.verifying_key(), &hub.verifying_key());
        let bytes = entry.encode(&entry.sign(&root), &entry.sign(&hub), None);
        Self {
            keys: KeyList::begin(FLEET, &bytes).expect("it was just signed"),
            hub,
            agents: (0..AGENTS).map(|agent| SigningKey::from_bytes(&[20 + small(agent); 32])).collect(),
            archive: ArchiveKey::new(1, [11; 32].into()),
            sealed: 0,
            tickets: HashMap::new(),
            leaves: HashMap::new(),
            statements: HashMap::new(),
            audits: HashMap::new(),
            stated: Default::default(),
        }
    }

    /// The ticket of a stub, signed by the hub if the stub is.
    fn ticket(&mut self, stub: &Ticket) -> SignedTicket {
        if let Some(known) = self.tickets.get(&stub.hash()) {
            return known.clone();
        }
        let call = call_id(stub.call);
        let at = SealedFor { fleet: FLEET, call, attempt: stub.attempt };
        self.sealed += 1;
        let mut nonce = [0; 24];
        nonce[..8].copy_from_slice(&self.sealed.to_be_bytes());
        let (account, zone) = (AccountId([stub.consumer; 16]), Ppm(stub.zone));
        let payer = Payer { account, key: ApiKeyId([13; 16]), zone, hold: NanoUsd(stub.ceiling) };
        let ticket = ticket::Ticket {
            fleet: FLEET,
            hub_node: HubNodeId([2; 16]),
            boot: BootId([stub.boot.to_be_bytes()[1]; 16]),
            signing_key: 0,
            call,
            attempt: stub.attempt,
            agent: chain_id(stub.agent, 0).agent,
            vendor_key: VENDOR_KEY,
            endpoint: ENDPOINT,
            model: "gpt-5-mini".to_owned(),
            price_version: 7,
            price_hash: Hex([8; 32]),
            meter_rules: 1,
            zone,
            tier: Ppm(stub.tier),
            ceiling: NanoUsd(stub.ceiling),
            deadline_ms: 600_000,
            payer: self.archive.seal_payer(&payer, at, nonce),
        };
        let signed = if stub.is_signed() { ticket.sign(&self.hub) } else { ticket.sign(&self.agents[0]) };
        self.tickets.insert(stub.hash(), signed.clone());
        signed
    }

    fn event(&mut self, agent: usize, said: &Said) -> Event {
        match said {
            Said::Epoch => Event::Epoch(EpochStart {
                fleet: FLEET,
                purpose: Purpose::Calls,
                key: Hex(self.agents[agent].verifying_key().to_bytes()),
                reason: EpochReason::First,
                previous: None,
            }),
            Said::Open(ticket) => Event::Open(self.ticket(ticket)),
            Said::Close { call, attempt, ticket, figure } => {
                let ticket = self.tickets.get(ticket).map_or(Hex([0; 32]), SignedTicket::hash);
                Event::Close(close(*call, *attempt, ticket, *figure))
            }
            Said::Adjust { call, attempt, corrects, list } => {
                Event::Adjust(adjust(*call, *attempt, self.leaf_hash(*corrects), *list))
            }
        }
    }

    /// The bytes of each leaf of a log, as the shipped chain makes them.
    fn write(&mut self, agent: usize, epoch: u32, log: &[Leaf]) {
        for (number, leaf) in log.iter().enumerate() {
            if self.leaves.contains_key(&leaf.hash) {
                continue;
            }
            let head = Head { size: number as u64, hash: self.leaf_hash(leaf.before) };
            let mut chain = Chain::resume(chain_id(small(agent), epoch), head);
            let event = self.event(agent, &leaf.said);
            let bytes = chain.append(leaf.at, event).expect("EPOCH stands first and nowhere else");
            self.leaves.insert(leaf.hash, bytes);
        }
    }

    fn leaf_hash(&self, stub: u64) -> Hash {
        self.leaves.get(&stub).map_or(Head::EMPTY.hash, |bytes| leaf::Leaf::hash(bytes))
    }

    /// The head after so many leaves of a chain of the books.
    fn head(&self, leaves: &[Leaf], size: u64) -> Head {
        let newest = index(size).checked_sub(1).and_then(|last| leaves.get(last));
        Head { size, hash: newest.map_or(Head::EMPTY.hash, |leaf| self.leaf_hash(leaf.hash)) }
    }
}

impl World {
    /// The hub signs an order.
    pub(crate) fn real_ticket(&mut self, ticket: &Ticket) {
        if let Some(real) = &mut self.real {
            real.ticket(ticket);
        }
    }

    /// Whether the shipped gate lets an order in, as the stub's checks did.
    pub(crate) fn real_admits(&mut self, agent: usize, ticket: &Ticket, stub: bool) -> Result<(), String> {
        let Some(real) = &mut self.real else { return Ok(()) };
        let bytes = real.ticket(ticket).bytes().to_vec();
        let gate = Gate {
            agent: chain_id(small(agent), 0).agent,
            keys: Arc::new(real.keys.clone()),
            oldest_key: 0,
            meter_rules: 1,
            tier_floor: Ppm(1),
        };
        let order = Order { call: call_id(ticket.call), vendor_key: VENDOR_KEY, endpoint: ENDPOINT };
        let mut seen = self.agents[agent].seen.clone();
        let examined = gate.examine(&bytes, order, |_, _| true);
        same("the gate", stub, examined.is_ok_and(|signed| seen.admit(signed.ticket()).is_ok()))
    }

    /// The group of leaves that an agent sends, signed by this one.
    pub(crate) fn real_group(&mut self, agent: usize, signer: usize, first: u64, sent: &[Leaf]) -> Option<Rc<Vec<u8>>> {
        let real = self.real.as_mut()?;
        let of = &self.agents[agent];
        real.write(agent, of.epoch, &of.log);
        let leaves: Vec<Vec<u8>> = sent.iter().map(|leaf| real.leaves[&leaf.hash].clone()).collect();
        let size = first + leaves.len() as u64;
        let head = Head { size, hash: real.leaf_hash(sent.last()?.hash) };
        let group = Group::sign(&chain_id(small(agent), of.epoch), &real.agents[signer], leaves, head);
        group.ok().map(|group| Rc::new(group.encode()))
    }

    /// Whether the shipped verifier takes a batch, as the stub's checks did.
    pub(crate) fn real_batch(&self, batch: &Batch, stub: bool) -> Result<(), String> {
        let Some(real) = &self.real else { return Ok(()) };
        let Some(group) = batch.group.as_ref().and_then(|bytes| Group::decode(bytes).ok()) else {
            return Err("a claim came without a group".to_owned());
        };
        let known = self.books.chain(batch.agent, batch.epoch).map_or(&[][..], |chain| &chain.leaves);
        let overlap = known.iter().skip(index(group.first())).zip(group.leaves());
        let is_known = overlap.into_iter().all(|(leaf, bytes)| real.leaves[&leaf.hash] == *bytes);
        let id = chain_id(small(batch.agent), batch.epoch);
        let key = real.agents[batch.agent].verifying_key();
        let mut verifier = Verifier::resume(id, real.head(known, group.first()), key);
        let is_taken = is_known && group.verify(&mut verifier).is_ok();
        same("the verifier", stub, is_taken)
    }

    /// Whether the shipped audit lets a leaf say what it says, as the stub's did.
    pub(crate) fn real_audit(
        &mut self,
        agent: u8,
        epoch: u32,
        number: u64,
        leaf: &Leaf,
        stub: bool,
    ) -> Result<(), String> {
        let Some(real) = &mut self.real else { return Ok(()) };
        let keys = real.keys.clone();
        let fresh = || (0, Audit::new(chain_id(agent, epoch), keys));
        let (count, mut audit) =
            real.audits.remove(&(agent, epoch)).filter(|(count, _)| *count == index(number)).unwrap_or_else(fresh);
        let known = self.books.chain(usize::from(agent), epoch).map_or(&[][..], |chain| &chain.leaves);
        let mut take = |leaf: &Leaf| -> Result<bool, String> {
            let bytes = &real.leaves[&leaf.hash];
            let read = leaf::Leaf::decode(bytes).map_err(|error| error.to_string())?;
            Ok(audit.take(&read.event, leaf::Leaf::hash(bytes)).is_ok())
        };
        // The database went back: what it has is read again.
        for leaf in &known[count..index(number)] {
            take(leaf)?;
        }
        let taken = take(leaf)?;
        real.audits.insert((agent, epoch), (index(number) + 1, audit));
        same("the audit", stub, taken)
    }

    /// After amnesia the payer is who the ticket says, opened with the archive key.
    pub(crate) fn real_payer(&mut self, ticket: &Ticket) -> Result<(), String> {
        let Some(real) = &mut self.real else { return Ok(()) };
        let signed = real.ticket(ticket);
        let opened = real.archive.open_payer(&signed.ticket().payer, signed.ticket().sealed_for());
        let is_payer = opened.is_ok_and(|payer| payer.account == AccountId([ticket.consumer; 16]));
        same("the payer", true, is_payer)
    }

    /// The hub signs a statement.
    pub(crate) fn real_state(&mut self, statement: &Statement, hash: u64) -> Result<(), String> {
        let Some(real) = &mut self.real else { return Ok(()) };
        let before = real.statements.get(&narrow(&statement.before));
        let before = before.map_or(Hex([0; 32]), |bytes| hash_of(bytes));
        let line = |line: &Line| Line { leaf: real.leaf_hash(narrow(&line.leaf)), ..line.clone() };
        let earlier = |of: &EarlierLine| EarlierLine { number: of.number, line: line(&of.line) };
        let signed = Statement {
            before,
            lines: statement.lines.iter().map(line).collect(),
            earlier: statement.earlier.iter().map(earlier).collect(),
            ..statement.clone()
        };
        let bytes = signed.sign(&real.hub).map_err(|error| error.to_string())?;
        real.statements.insert(hash, bytes);
        Ok(())
    }

    /// The agent verifies the statement and the cosigned head that came with it.
    pub(crate) fn real_statement(&mut self, agent: usize, statement: &Statement, hash: u64) -> Result<(), String> {
        let Some(real) = &mut self.real else { return Ok(()) };
        let of = &self.agents[agent];
        real.write(agent, of.epoch, &of.log);
        let chain = chain_id(small(agent), of.epoch);
        let number = index(statement.number);
        if of.epoch != statement.chain.epoch || real.stated[agent].len() < number {
            return Err("statements were verified in another order".to_owned());
        }
        let mut stated = number.checked_sub(1).map_or(Stated::NOTHING, |before| real.stated[agent][before].clone());
        let leaf = |number: u64| of.log.get(index(number)).map(|leaf| real.leaf_hash(leaf.hash));
        let taken = stated.take(&real.statements[&hash], &chain, &real.keys, 0, leaf);
        taken.map_err(|error| format!("a statement that the stub took: {error}"))?;
        let head = real.head(&of.log, stated.leaves);
        let cosigned = Cosign::stored(chain, head).sign(0, &real.hub);
        let read = Cosigned::decode(&cosigned.encode()).map_err(|error| error.to_string())?;
        same("a cosigned head", true, read.verify(&real.hub.verifying_key()).is_ok())?;
        real.stated[agent].truncate(number);
        real.stated[agent].push(stated);
        Ok(())
    }

    /// A new chain has statements of its own; a restored agent has those of its copy.
    pub(crate) fn real_history(&mut self, agent: usize) {
        if let Some(real) = &mut self.real {
            real.stated[agent].truncate(self.agents[agent].history.len());
        }
    }
}

fn same(what: &str, stub: bool, real: bool) -> Result<(), String> {
    if stub == real { Ok(()) } else { Err(format!("{what}: the stub says {stub}, and the records {real}")) }
}

fn small(number: usize) -> u8 {
    u8::try_from(number).expect("few of everything")
}
