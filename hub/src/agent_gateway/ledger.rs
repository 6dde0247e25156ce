//! The way of one link's leaves into the books, and of the books' word back.
//!
//! Invariant: the link's own task never waits for signatures or the database; what an agent has on
//! its way is bounded, and a link that has more is ended.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::chain::Group;
use keyhaven_protocol::frame::Ack;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::Need;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Leaf;
use keyhaven_protocol::ledger_sync::HubHalf;
use keyhaven_protocol::ledger_sync::Taken;
use keyhaven_protocol::link::LinkFault;
use tokio::sync::mpsc;
use tracing::debug;
use tracing::warn;

use super::AgentGateway;
use super::LiveLink;
use super::refusal;
use crate::settlement::Answer;
use crate::settlement::Answers;
use crate::settlement::ChainReader;
use crate::settlement::Read;
use crate::store::StoreError;

/// Leaves of one link that may wait to be committed.
const UNCOMMITTED_LEAVES_MAX: u64 = 32_768;

/// Groups of one link that may wait to be read.
const UNREAD_GROUPS_MAX: usize = 4096;

/// And their bytes.
const UNREAD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Between two handfuls of statements that an agent missed.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(20);

/// Between two looks for what another process of this hub has said of leaves that wait.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Where an agent's ledger stands, and where the books have it.
pub(super) struct Standing {
    pub(super) reader: Box<ChainReader>,
    /// The first leaf that the books do not have.
    pub(super) next: u64,
    /// Statements that the agent has.
    pub(super) statements: u64,
    /// There are more, or soon will be.
    pub(super) is_owed: bool,
    pub(super) public_key: [u8; 32],
}

/// A link's end of it. Most links of a large fleet are idle: the task begins when there is
/// something to say.
pub(super) enum LedgerLink {
    Idle(Option<Standing>),
    Busy { sender: mpsc::Sender<Bytes>, unread_bytes: Arc<AtomicUsize> },
}

struct Intake {
    gateway: Arc<AgentGateway>,
    link: Arc<LiveLink>,
    public_key: [u8; 32],
    half: HubHalf,
    reader: ChainReader,
    answers: Answers,
    /// The number of the statement that the agent gets next.
    next_statement: u64,
    /// Leaves wait for a statement.
    waits: bool,
}

/// The link is to be ended, and why.
struct End(ErrorCode);

impl LedgerLink {
    pub(super) fn new(gateway: &Arc<AgentGateway>, link: &Arc<LiveLink>, standing: Standing) -> Self {
        if standing.is_owed { Self::begin(gateway, link, standing) } else { Self::Idle(Some(standing)) }
    }

    /// Begins to take what comes over a link.
    fn begin(gateway: &Arc<AgentGateway>, link: &Arc<LiveLink>, standing: Standing) -> Self {
        let (sender, frames) = mpsc::channel(UNREAD_GROUPS_MAX);
        let unread_bytes = Arc::new(AtomicUsize::new(0));
        let Standing { reader, next, statements, public_key, .. } = standing;
        let epoch = reader.chain().epoch;
        let intake = Intake {
            gateway: gateway.clone(),
            link: link.clone(),
            public_key,
            half: HubHalf::new(next, UNCOMMITTED_LEAVES_MAX),
            reader: *reader,
            answers: gateway.books.listen(link.agent, epoch),
            next_statement: statements,
            waits: false,
        };
        gateway.tasks.spawn_until_stop("ledger", intake.run(frames, unread_bytes.clone()));
        Self::Busy { sender, unread_bytes }
    }

    /// A group came.
    ///
    /// # Errors
    /// When too much waits already.
    pub(super) fn group(
        &mut self,
        gateway: &Arc<AgentGateway>,
        link: &Arc<LiveLink>,
        payload: Bytes,
    ) -> Result<(), LinkFault> {
        if let Self::Idle(standing) = self
            && let Some(standing) = standing.take()
        {
            *self = Self::begin(gateway, link, standing);
        }
        let Self::Busy { sender, unread_bytes } = self else { return Ok(()) };
        let bytes = payload.len();
        if unread_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > UNREAD_BYTES_MAX {
            return Err(LinkFault::Flood);
        }
        sender.try_send(payload).map_err(|_| LinkFault::Flood)
    }
}

impl Intake {
    async fn run(mut self, mut frames: mpsc::Receiver<Bytes>, unread_bytes: Arc<AtomicUsize>) {
        if let Err(End(code)) = self.serve(&mut frames, &unread_bytes).await {
            warn!(agent.id = %self.link.agent, link.id = self.link.number, "the link of agent {} is ended: {}", self.link.name, code.cause());
            self.link.handle.refuse(&refusal(code));
        }
    }

    async fn serve(&mut self, frames: &mut mpsc::Receiver<Bytes>, unread_bytes: &AtomicUsize) -> Result<(), End> {
        self.catch_up(u64::MAX).await?;
        loop {
            tokio::select! {
                biased;
                answer = self.answers.next() => match answer {
                    Some(answer) => self.answer(answer).await?,
                    None => {
                        // It fell behind, or another link of the agent listens.
                        self.link.handle.close();
                        return Ok(());
                    }
                },
                () = tokio::time::sleep(LOOK_EVERY), if self.waits => self.catch_up(u64::MAX).await?,
                frame = frames.recv() => {
                    let Some(payload) = frame else { return Ok(()) };
                    unread_bytes.fetch_sub(payload.len(), Ordering::Relaxed);
                    self.group(&payload).await?;
                }
            }
        }
    }

    async fn group(&mut self, payload: &[u8]) -> Result<(), End> {
        let group = Group::decode(payload).map_err(|error| self.malformed(&error))?;
        match self.half.claim(group.first()..group.end()) {
            Taken::Settle(new) => self.settle(group, new.start).await,
            Taken::Ack { .. } => self.known(group).await,
            Taken::Wait | Taken::Skip => Ok(()),
            Taken::Need { next } => {
                self.need(next);
                Ok(())
            }
            Taken::TooMuch => Err(End(ErrorCode::LinkProtocol)),
        }
    }

    /// It goes on from what is known.
    async fn settle(&mut self, group: Group, first: u64) -> Result<(), End> {
        if self.reader.head().size != group.first() {
            // Another link of this agent was faster.
            self.read_on().await?;
            if self.reader.head().size != group.first() || first != group.first() {
                let next = self.half.lost(self.reader.head().size);
                self.need(next);
                return Ok(());
            }
        }
        match self.reader.read(group) {
            Ok(Read::Next(group)) => {
                for (call, attempt, metered) in group.figures() {
                    self.link.deliver(call, attempt, metered.clone());
                }
                self.gateway.books.take_in(*group).await;
                Ok(())
            }
            Ok(Read::Fork(group)) => {
                self.gateway.books.take_fork(*group).await;
                Ok(())
            }
            Err(error) => Err(self.malformed(&error)),
        }
    }

    /// All of it is in the books, or another history of it.
    async fn known(&mut self, group: Group) -> Result<(), End> {
        let (agent, epoch) = (self.link.agent, self.reader.chain().epoch);
        let hash = group.leaves().last().map_or(Head::EMPTY.hash, |leaf| Leaf::hash(leaf));
        let head = Head { size: group.end(), hash };
        let is_known = self.gateway.books.has_leaf((agent, epoch), head).await;
        if is_known.map_err(|error| self.unreadable(&error))? {
            let before = self.next_statement.saturating_sub(1);
            let answers = self.gateway.books.statements(agent, epoch, before).await;
            for answer in answers.map_err(|error| self.unreadable(&error))? {
                self.say(answer);
            }
            return Ok(());
        }
        match self.reader.other_history(group) {
            Some(Read::Fork(group)) => {
                self.gateway.books.take_fork(*group).await;
                Ok(())
            }
            Some(Read::Next(_)) | None => Err(End(ErrorCode::LinkProtocol)),
        }
    }

    async fn answer(&mut self, answer: Answer) -> Result<(), End> {
        match answer {
            Answer::Committed { next, number, .. } => {
                self.half.committed(next);
                if number > self.next_statement {
                    // Another process of this hub has said something meanwhile.
                    return self.catch_up(number).await;
                }
                self.say(answer);
                Ok(())
            }
            Answer::Lost { .. } => {
                self.read_on().await?;
                let next = self.half.lost(self.reader.head().size);
                self.need(next);
                Ok(())
            }
            Answer::Forked => Err(End(ErrorCode::LedgerForked)),
        }
    }

    /// Sends the statements that the agent has not seen, up to this one.
    async fn catch_up(&mut self, until: u64) -> Result<(), End> {
        let (agent, epoch) = (self.link.agent, self.reader.chain().epoch);
        while self.next_statement <= until {
            let answers = self.gateway.books.statements(agent, epoch, self.next_statement).await;
            let answers = answers.map_err(|error| self.unreadable(&error))?;
            if answers.is_empty() {
                return Ok(());
            }
            for answer in answers {
                self.say(answer);
            }
            tokio::time::sleep(CATCH_UP_PAUSE).await;
        }
        Ok(())
    }

    fn say(&mut self, answer: Answer) {
        let Answer::Committed { next, number, statement, cosigned, open_leaves } = answer else { return };
        self.waits = open_leaves > 0;
        self.next_statement = self.next_statement.max(number.saturating_add(1));
        self.link.handle.send_control(FrameKind::Ack, &Ack { next, statement, cosigned }.encode());
    }

    fn need(&self, next: u64) {
        debug!(agent.id = %self.link.agent, next, "agent {} is asked for its leaves from {next} on", self.link.name);
        self.link.handle.send_control(FrameKind::Need, &Need { next }.encode());
    }

    async fn read_on(&mut self) -> Result<(), End> {
        let epoch = self.reader.chain().epoch;
        let reader = self.gateway.books.reader(self.link.agent, epoch, &self.public_key).await;
        self.reader = reader.map_err(|error| self.unreadable(&error))?;
        Ok(())
    }

    fn malformed(&self, error: &dyn std::fmt::Display) -> End {
        warn!(agent.id = %self.link.agent, "leaves of agent {} are not taken: {error}", self.link.name);
        End(ErrorCode::LinkProtocol)
    }

    fn unreadable(&self, error: &StoreError) -> End {
        warn!(agent.id = %self.link.agent, %error, "the leaves of agent {} cannot be looked up: {error}", self.link.name);
        End(ErrorCode::StoreFailed)
    }
}
