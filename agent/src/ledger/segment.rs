//! The log's files: how they are named and what each begins with.
//!
//! ```text
//! name:    epoch as 10 digits - number of the first leaf as 20 digits .log
//! header:  "KHLEDGR1" | fleet 16 | purpose u8 | agent 16 | epoch u32 | leaves before u64 | head before 32 |
//!          bytes of the segment before u64 | the agent's key that signs from here 32 | CRC-32 of all that u32
//! ```
//!
//! Invariant: names sort as the chain goes, and a header says from which head its leaves go on.

use ed25519_dalek::VerifyingKey;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Purpose;

const MAGIC: [u8; 8] = *b"KHLEDGR1";
const SUFFIX: &str = ".log";
const EPOCH_DIGITS: usize = 10;
const LEAF_DIGITS: usize = 20;

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 129;

/// Which file of a chain's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    /// The epoch of its leaves.
    pub epoch: u32,
    /// The number of its first leaf.
    pub first: u64,
}

/// What a segment begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Whose leaves.
    pub(super) chain: ChainId,
    /// The head that they follow.
    pub(super) before: Head,
    /// How long the segment before is, whatever its epoch: 0 for the first one. What comes from the
    /// hub is not in the chain of leaves, and would not be missed at a segment's end.
    pub(super) bytes_before: u64,
    /// The key that signs them.
    pub(super) key: VerifyingKey,
}

impl SegmentId {
    /// The file's name.
    pub fn name(self) -> String {
        format!("{:0EPOCH_DIGITS$}-{:0LEAF_DIGITS$}{SUFFIX}", self.epoch, self.first)
    }

    /// The segment with this name, if it is one.
    pub fn of_name(name: &str) -> Option<Self> {
        let (epoch, first) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let id = Self { epoch: epoch.parse().ok()?, first: first.parse().ok()? };
        (id.name() == name).then_some(id)
    }
}

impl Header {
    /// The segment that begins so.
    pub(super) const fn segment(&self) -> SegmentId {
        SegmentId { epoch: self.chain.epoch, first: self.before.size }
    }

    /// Its bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.chain.fleet.0);
        bytes.push(self.chain.purpose.number());
        bytes.extend_from_slice(&self.chain.agent.0);
        bytes.extend_from_slice(&self.chain.epoch.to_be_bytes());
        bytes.extend_from_slice(&self.before.size.to_be_bytes());
        bytes.extend_from_slice(&self.before.hash.0);
        bytes.extend_from_slice(&self.bytes_before.to_be_bytes());
        bytes.extend_from_slice(self.key.as_bytes());
        let checksum = crc32fast::hash(&bytes).to_be_bytes();
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// Reads a header; none if the bytes are not one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (covered, checksum) = bytes.split_last_chunk::<4>()?;
        if bytes.len() != HEADER_BYTES || crc32fast::hash(covered).to_be_bytes() != *checksum {
            return None;
        }
        let rest = covered.strip_prefix(&MAGIC)?;
        let (fleet, rest) = rest.split_first_chunk()?;
        let (purpose, rest) = rest.split_first()?;
        let (agent, rest) = rest.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (size, rest) = rest.split_first_chunk()?;
        let (hash, rest) = rest.split_first_chunk()?;
        let (bytes_before, rest) = rest.split_first_chunk()?;
        let chain = ChainId {
            fleet: FleetId(*fleet),
            purpose: Purpose::from_number(*purpose)?,
            agent: AgentId(*agent),
            epoch: u32::from_be_bytes(*epoch),
        };
        let before = Head { size: u64::from_be_bytes(*size), hash: Hex(*hash) };
        let bytes_before = u64::from_be_bytes(*bytes_before);
        Some(Self { chain, before, bytes_before, key: VerifyingKey::from_bytes(rest.try_into().ok()?).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    #[test]
    fn a_header_reads_back_and_no_bit_of_it_may_differ() {
        let chain =
            ChainId { fleet: FleetId([1; 16]), purpose: Purpose::Calls, agent: AgentId([2; 16]), epoch: 0x0a0b };
        let key = SigningKey::from_bytes(&[3; 32]).verifying_key();
        let header = Header { chain, before: Head { size: 0x0102_0304, hash: Hex([4; 32]) }, bytes_before: 77, key };
        let bytes = header.encode();

        assert_eq!(Header::decode(&bytes), Some(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(Header::decode(&bytes[..HEADER_BYTES - 1]), None);
    }

    #[test]
    fn names_sort_as_the_chain_goes_and_others_are_none() {
        let ids = [(0, 0), (0, 9), (0, 10), (0, u64::MAX), (1, 0), (10, 3), (u32::MAX, 0)];
        let names: Vec<String> =
            ids.iter().map(|(epoch, first)| SegmentId { epoch: *epoch, first: *first }.name()).collect();

        assert!(names.is_sorted());
        for ((epoch, first), name) in ids.into_iter().zip(&names) {
            assert_eq!(SegmentId::of_name(name), Some(SegmentId { epoch, first }));
        }
        for name in [
            "lock",
            "index.db",
            "1-2.log",
            "0000000000-00000000000000000000.log.tmp",
            "+000000000-00000000000000000000.log",
        ] {
            assert_eq!(SegmentId::of_name(name), None, "{name}");
        }
    }
}
