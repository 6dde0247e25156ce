//! PRICES: a price table on its way to an agent, in parts, and the agent's answer.
//!
//! ```text
//! hub:    0 u8 | version u32 | hash 32 | signature 64 | packed bytes u32 | offset u32 | a part of the packed bytes
//! agent:  1 u8 | count u16 | (version u32 | hash 32) each
//! ```
//!
//! Invariant: what gathers parts never holds more than [`PACKED_BYTES_MAX`] of one table.

use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;

use super::wire::PayloadError;
use super::wire::Reader;
use crate::hex::Hex;

/// The longest packed table.
pub const PACKED_BYTES_MAX: usize = 1024 * 1024;

/// The most tables of which an agent says that it holds them.
pub const HELD_TABLES_MAX: usize = 256;

/// Bytes of a table in one frame: few enough that calls do not wait long behind it.
const PART_BYTES: usize = 32 * 1024;

const PART: u8 = 0;
const HELD: u8 = 1;

/// The payload of PRICES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prices {
    /// Hub to agent.
    Part(PricePart),
    /// Agent to hub: all tables that it holds. Said when the link is up, and again after every
    /// table that came, whether or not it was taken.
    Held(Vec<HeldTable>),
}

/// A part of a packed price table. The parts of a table come in order, with none of another between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricePart {
    /// The table's version.
    pub version: u32,
    /// The table's hash.
    pub hash: Hex<32>,
    /// The hub's signature over the hash.
    pub signature: [u8; 64],
    /// How long the packed table is.
    pub packed_bytes: u32,
    /// Where in it this part begins.
    pub offset: u32,
    /// The part.
    pub bytes: Bytes,
}

/// A table that an agent holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HeldTable {
    /// Its version.
    pub version: u32,
    /// Its hash.
    pub hash: Hex<32>,
}

impl Prices {
    /// The payload. Of more than [`HELD_TABLES_MAX`] tables, the last ones are said.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Part(part) => {
                out.reserve(128 + part.bytes.len());
                out.put_u8(PART);
                out.put_u32(part.version);
                out.put_slice(&part.hash.0);
                out.put_slice(&part.signature);
                out.put_u32(part.packed_bytes);
                out.put_u32(part.offset);
                out.put_slice(&part.bytes);
            }
            Self::Held(tables) => {
                let said = &tables[tables.len().saturating_sub(HELD_TABLES_MAX)..];
                out.put_u8(HELD);
                out.put_u16(u16::try_from(said.len()).expect("cut above"));
                for table in said {
                    out.put_u32(table.version);
                    out.put_slice(&table.hash.0);
                }
            }
        }
        out.freeze()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it does not follow the layout.
    pub fn decode(payload: Bytes) -> Result<Self, PayloadError> {
        let mut reader = Reader::new(payload);
        match reader.u8()? {
            PART => {
                let part = PricePart {
                    version: reader.u32()?,
                    hash: Hex(reader.array()?),
                    signature: reader.array()?,
                    packed_bytes: reader.u32()?,
                    offset: reader.u32()?,
                    bytes: reader.rest(),
                };
                Ok(Self::Part(part))
            }
            HELD => {
                let count = usize::from(reader.u16()?);
                if count > HELD_TABLES_MAX {
                    return Err(PayloadError::Field("count"));
                }
                let mut tables = Vec::with_capacity(count);
                for _ in 0..count {
                    tables.push(HeldTable { version: reader.u32()?, hash: Hex(reader.array()?) });
                }
                reader.end()?;
                Ok(Self::Held(tables))
            }
            _ => Err(PayloadError::Field("what")),
        }
    }
}

/// The payloads that carry a packed table.
///
/// # Errors
/// `Field` when it is empty or longer than [`PACKED_BYTES_MAX`].
pub fn parts_of(table: HeldTable, signature: [u8; 64], packed: &[u8]) -> Result<Vec<Bytes>, PayloadError> {
    let too_long = || PayloadError::Field("packed bytes");
    if packed.is_empty() || packed.len() > PACKED_BYTES_MAX {
        return Err(too_long());
    }
    let packed_bytes = u32::try_from(packed.len()).map_err(|_| too_long())?;
    let mut offset = 0;
    let mut parts = Vec::new();
    for piece in packed.chunks(PART_BYTES) {
        let HeldTable { version, hash } = table;
        let bytes = Bytes::copy_from_slice(piece);
        parts.push(Prices::Part(PricePart { version, hash, signature, packed_bytes, offset, bytes }).encode());
        offset += u32::try_from(piece.len()).map_err(|_| too_long())?;
    }
    Ok(parts)
}

/// Puts a table together from its parts.
#[derive(Debug, Default)]
pub struct PriceParts {
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    first: PricePart,
    packed: BytesMut,
}

impl PriceParts {
    /// Takes the next part. Returns the table, its signature and the packed bytes with the
    /// last one.
    ///
    /// # Errors
    /// When the part is not the next one; then nothing is kept.
    pub fn take(&mut self, part: PricePart) -> Result<Option<(HeldTable, [u8; 64], Bytes)>, PayloadError> {
        let mut begun = match self.begun.take() {
            // The hub may begin anew at any time: a table that it did not finish is not wanted any more.
            None | Some(_) if part.offset == 0 => Begun { first: part.clone(), packed: BytesMut::new() },
            Some(begun) if begun.continues_with(&part) => begun,
            None | Some(_) => return Err(PayloadError::Field("offset")),
        };
        let packed_bytes = begun.first.packed_bytes as usize;
        let most = packed_bytes.min(PACKED_BYTES_MAX);
        if part.bytes.is_empty() || packed_bytes > PACKED_BYTES_MAX || begun.packed.len() + part.bytes.len() > most {
            return Err(PayloadError::Field("packed bytes"));
        }
        begun.packed.put_slice(&part.bytes);
        if begun.packed.len() < packed_bytes {
            self.begun = Some(begun);
            return Ok(None);
        }
        let Begun { first: PricePart { version, hash, signature, .. }, packed } = begun;
        Ok(Some((HeldTable { version, hash }, signature, packed.freeze())))
    }
}

impl Begun {
    fn continues_with(&self, part: &PricePart) -> bool {
        let PricePart { version, hash, signature, packed_bytes, .. } = &self.first;
        (version, hash, signature, packed_bytes) == (&part.version, &part.hash, &part.signature, &part.packed_bytes)
            && part.offset as usize == self.packed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: HeldTable = HeldTable { version: 3, hash: Hex([4; 32]) };

    #[test]
    fn a_table_of_any_length_comes_together_again() {
        for length in [1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, PACKED_BYTES_MAX] {
            let packed: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
            let mut parts = PriceParts::default();
            let came: Vec<_> = (parts_of(TABLE, [5; 64], &packed).unwrap().into_iter())
                .map(|payload| parts.take(part(payload)).unwrap())
                .collect();

            let (last, before) = came.split_last().unwrap();
            assert_eq!(*last, Some((TABLE, [5; 64], packed.into())), "{length}");
            assert!(before.iter().all(Option::is_none));
        }
    }

    #[test]
    fn parts_that_do_not_follow_each_other_are_refused_and_nothing_is_kept() {
        let payloads = parts_of(TABLE, [5; 64], &vec![1; 3 * PART_BYTES]).unwrap();
        let [first, second, third] = &payloads[..] else { panic!("{} parts", payloads.len()) };
        let other = PricePart { signature: [6; 64], ..part(second.clone()) };
        let longer = PricePart { bytes: vec![0; 2 * PART_BYTES + 1].into(), ..part(second.clone()) };
        let empty = PricePart { bytes: Bytes::new(), ..part(second.clone()) };

        for wrong in [part(third.clone()), other, longer, empty] {
            let mut parts = PriceParts::default();
            assert!(parts.take(wrong.clone()).is_err(), "nothing was begun");
            assert_eq!(parts.take(part(first.clone())), Ok(None));
            assert!(parts.take(wrong).is_err());
            assert!(parts.take(part(second.clone())).is_err(), "what had come is gone");
        }
    }

    #[test]
    fn a_table_may_be_begun_anew() {
        let payloads = parts_of(TABLE, [5; 64], &vec![1; 2 * PART_BYTES]).unwrap();
        let mut parts = PriceParts::default();

        assert_eq!(parts.take(part(payloads[0].clone())), Ok(None));
        assert_eq!(parts.take(part(payloads[0].clone())), Ok(None));
        assert!(parts.take(part(payloads[1].clone())).unwrap().is_some());
    }

    #[test]
    fn a_table_beyond_the_bound_is_neither_sent_nor_gathered() {
        assert!(parts_of(TABLE, [5; 64], &vec![0; PACKED_BYTES_MAX + 1]).is_err());
        assert!(parts_of(TABLE, [5; 64], &[]).is_err());
        let payload = parts_of(TABLE, [5; 64], &[1, 2]).unwrap().remove(0);
        let huge = PricePart { packed_bytes: u32::MAX, ..part(payload) };

        assert!(PriceParts::default().take(huge).is_err());
    }

    #[test]
    fn what_an_agent_holds_reads_back_and_is_bounded() {
        let many: Vec<HeldTable> = (0..300).map(|version| HeldTable { version, hash: Hex([7; 32]) }).collect();

        for held in [&many[..0], &many[..1], &many[..HELD_TABLES_MAX]] {
            let held = Prices::Held(held.to_vec());
            assert_eq!(Prices::decode(held.encode()), Ok(held));
        }
        let cut = Prices::decode(Prices::Held(many.clone()).encode());
        assert_eq!(cut, Ok(Prices::Held(many[300 - HELD_TABLES_MAX..].to_vec())));
        assert_eq!(Prices::decode(Bytes::from_static(&[1, 255, 255])), Err(PayloadError::Field("count")));
        assert_eq!(Prices::decode(Bytes::from_static(&[2])), Err(PayloadError::Field("what")));
    }

    fn part(payload: Bytes) -> PricePart {
        match Prices::decode(payload).unwrap() {
            Prices::Part(part) => part,
            Prices::Held(_) => panic!("no part"),
        }
    }
}
