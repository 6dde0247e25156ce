//! Leaves of every kind, frozen, damaged and made up.
//!
//! Invariant: what is tested holds for every kind and every shape of its fields.

use super::samples::close;
use super::samples::hex_of;
use super::samples::leaf;
use super::samples::metered;
use super::samples::samples;
use super::*;
use crate::metering::Outcome;
use crate::metering::Rule;
use crate::money::NanoUsd;
use crate::usage::Doubts;
use crate::usage::Meter;
use crate::usage::Meters;

#[test]
fn leaves_are_written_as_they_were_frozen() {
    let made: Vec<(&str, String)> =
        samples().iter().map(|leaf| (leaf.event.kind().name(), hex_of(&leaf.encode()))).collect();
    let frozen = include_str!("../../vectors/leaves.hex");
    let frozen: Vec<&str> = frozen.lines().filter(|line| !line.starts_with('#')).collect();

    assert_eq!(made.iter().map(|(_, hex)| hex.as_str()).collect::<Vec<_>>(), frozen, "{made:#?}");
    for kind in Kind::ALL {
        assert!(made.iter().any(|(name, _)| *name == kind.name()), "{kind:?} is not among them");
    }
}

#[test]
fn leaves_read_back() {
    for leaf in samples() {
        assert!(leaf.encode().len() <= LEAF_BYTES_MAX);
        assert_eq!(Leaf::decode(&leaf.encode()), Ok(leaf));
    }
}

#[test]
fn the_longest_leaf_is_within_its_bound() {
    let mut full = Meters::default();
    for meter in Meter::ALL {
        full.set(*meter, u64::MAX);
    }
    let longest = Some("m".repeat(128));
    let metered = Metered {
        list: NanoUsd(i64::MAX),
        response_bytes: u64::MAX,
        elapsed_ms: u32::MAX,
        doubts: Doubts::from_bits(u16::MAX),
        meters: full,
        heard: full,
        model: longest.clone(),
        heard_model: longest,
        ..metered()
    };
    let digest = Some(Hex([7; 32]));
    let close = Close {
        metered: Some(metered),
        request_bytes: u64::MAX,
        vendor_bytes: u64::MAX,
        request_digest: digest,
        response_digest: digest,
        vendor_request: digest,
        lasted_ms: u64::MAX,
        ..close()
    };
    let leaf = leaf(u64::MAX, Event::Close(close));

    assert!(leaf.encode().len() <= LEAF_BYTES_MAX, "{}", leaf.encode().len());
    assert_eq!(Leaf::decode(&leaf.encode()), Ok(leaf));
}

#[test]
fn whatever_is_read_would_be_written_with_the_same_bytes() {
    for leaf in samples() {
        let bytes = leaf.encode();
        for at in 0..bytes.len() {
            for value in
                [0, 1, 0x14, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x20, 0x3b, 0x40, 0x58, 0x60, 0x80, 0x9f, 0xf4, 0xf6, 0xff]
            {
                let mut changed = bytes.clone();
                changed[at] = value;
                if let Ok(leaf) = Leaf::decode(&changed) {
                    assert_eq!(leaf.encode(), changed, "{:?}, byte {at} as {value:#x}", leaf.event.kind());
                }
            }
        }
        for length in 0..bytes.len() {
            assert!(Leaf::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
    }
}

#[test]
fn any_bytes_are_refused_without_a_panic() {
    let samples: Vec<Vec<u8>> = samples().iter().map(Leaf::encode).collect();

    bolero::check!().with_iterations(5_000).with_type::<(u8, u16, Vec<u8>)>().for_each(|(which, at, bytes)| {
        let _ = Leaf::decode(bytes);
        // What is made up stands somewhere in a leaf, so that it is read at all.
        let mut grafted = samples[usize::from(*which) % samples.len()].clone();
        let at = usize::from(*at) % grafted.len();
        let end = (at + bytes.len()).min(grafted.len());
        grafted[at..end].copy_from_slice(&bytes[..end - at]);
        if let Ok(leaf) = Leaf::decode(&grafted) {
            assert_eq!(leaf.encode(), grafted);
        }
    });
}

#[test]
fn what_contradicts_itself_is_no_leaf() {
    let closed = |change: fn(&mut Metered)| {
        let mut metered = metered();
        change(&mut metered);
        let event = Event::Close(Close { metered: Some(metered), ..close() });
        Leaf::decode(&leaf(1, event).encode())
    };
    assert_eq!(closed(|metered| metered.list = NanoUsd(-1)).err(), Some(CborError::Field("list")));
    assert_eq!(closed(|metered| metered.model = Some("m".repeat(129))).err(), Some(CborError::Field("model")));

    // The flag of an estimate is said twice, by itself and by the rule.
    let honest = leaf(1, Event::Close(close())).encode();
    let figure = [0x8c, Outcome::Complete.number(), Rule::Stated.number(), 0xf4];
    let at = honest.windows(4).position(|window| window == figure).unwrap();
    let mut flagged = honest.clone();
    flagged[at + 3] = 0xf5;
    assert_eq!(Leaf::decode(&flagged), Err(CborError::Field("estimated")));
}
