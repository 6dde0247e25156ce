//! One direction of a connection: a sender's kernel that takes bytes while little of what it
//! holds is unsent, a wire with a bandwidth, and a delay.
//!
//! Invariant: bytes arrive in the order they were sent, or, on a dead path, never.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::link::Micros;

/// What both directions are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    pub(super) bytes_per_second: u64,
    pub(super) delay_micros: u64,
    /// The kernel takes more while less than this is unsent.
    pub(super) unsent_bytes_max: usize,
}

pub(super) struct Pipe {
    path: Path,
    /// When the wire is free again.
    free_at: Micros,
    unsent: VecDeque<(Micros, usize)>,
    flying: VecDeque<(Micros, Bytes)>,
    dead: bool,
}

impl Pipe {
    pub(super) fn new(path: Path) -> Self {
        Self { path, free_at: Micros(0), unsent: VecDeque::new(), flying: VecDeque::new(), dead: false }
    }

    /// From now on nothing arrives, and nobody says so.
    pub(super) fn die(&mut self) {
        self.dead = true;
    }

    pub(super) fn has_room(&self, now: Micros) -> bool {
        self.unsent_bytes(now) < self.path.unsent_bytes_max
    }

    /// When there is room, if that is only a matter of time.
    pub(super) fn room_at(&self, now: Micros) -> Option<Micros> {
        if self.dead {
            return None;
        }
        let mut unsent = self.unsent_bytes(now);
        for (sent_at, bytes) in &self.unsent {
            if unsent < self.path.unsent_bytes_max {
                break;
            }
            if *sent_at > now {
                unsent -= bytes;
                if unsent < self.path.unsent_bytes_max {
                    return Some(*sent_at);
                }
            }
        }
        Some(now)
    }

    pub(super) fn send(&mut self, batch: Bytes, now: Micros) {
        let micros = (batch.len() as u64 * 1_000_000).div_ceil(self.path.bytes_per_second);
        self.free_at = self.free_at.max(now).plus(micros);
        self.unsent.retain(|(sent_at, _)| self.dead || *sent_at > now);
        self.unsent.push_back((self.free_at, batch.len()));
        self.flying.push_back((self.free_at.plus(self.path.delay_micros), batch));
    }

    pub(super) fn arrives_at(&self) -> Option<Micros> {
        self.flying.front().map(|(at, _)| *at).filter(|_| !self.dead)
    }

    pub(super) fn arrived(&mut self, now: Micros) -> Option<Bytes> {
        self.arrives_at().filter(|at| *at <= now)?;
        self.flying.pop_front().map(|(_, batch)| batch)
    }

    fn unsent_bytes(&self, now: Micros) -> usize {
        self.unsent.iter().filter(|(sent_at, _)| self.dead || *sent_at > now).map(|(_, bytes)| bytes).sum()
    }
}
