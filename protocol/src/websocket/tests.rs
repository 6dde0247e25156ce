//! The codec against itself, against tungstenite in both directions, and against bytes that
//! are no WebSocket.
//!
//! Invariant: the reference peer is another implementation, never this one.

use std::io::Cursor;
use std::io::Read;
use std::io::Write;

use bytes::Bytes;
use proptest::prelude::*;
use tungstenite::Message as Theirs;
use tungstenite::WebSocket;
use tungstenite::protocol::Role as TheirRole;
use tungstenite::protocol::WebSocketConfig;

use super::*;

const MESSAGE_BYTES_MAX: usize = 192 * 1024;

const LENGTHS: [usize; 12] = [0, 1, 7, 8, 9, 125, 126, 127, 65_535, 65_536, 65_537, MESSAGE_BYTES_MAX];

#[test]
fn every_length_that_is_written_differently_reads_back() {
    for role in [Role::Server, Role::Client] {
        for length in LENGTHS {
            let payload = pattern(length);
            let wire = frame(role, Opcode::Binary, &payload);

            assert_eq!(read_all(other(role), &wire), Ok(vec![Message::Binary(payload.into())]), "{role:?} {length}");
        }
    }
}

#[test]
fn a_client_masks_each_frame_with_another_key_and_a_server_does_not_mask() {
    let mut keys = MaskKeys::new(7);
    let seal = |role, keys: &mut MaskKeys| {
        let mut payload = *b"the same bytes";
        FrameHead::seal(role, Opcode::Binary, &mut payload, keys);
        payload
    };
    let (first, second) = (seal(Role::Client, &mut keys), seal(Role::Client, &mut keys));

    assert_ne!(first, second);
    assert_eq!(&seal(Role::Server, &mut keys), b"the same bytes");
}

#[test]
fn control_frames_come_between_messages() {
    let mut wire = frame(Role::Client, Opcode::Ping, b"are you there");
    wire.extend(frame(Role::Client, Opcode::Binary, b"batch"));
    wire.extend(frame(Role::Client, Opcode::Pong, b""));
    wire.extend(frame(Role::Client, Opcode::Close, &1001_u16.to_be_bytes()));

    let expected = vec![
        Message::Ping(Bytes::from_static(b"are you there")),
        Message::Binary(Bytes::from_static(b"batch")),
        Message::Pong,
        Message::Close(Some(1001)),
    ];
    assert_eq!(read_all(Role::Server, &wire), Ok(expected));
}

#[test]
fn what_is_no_frame_of_a_tunnel_is_refused_by_name() {
    let zeros = [0; 8];
    let faults: &[(&[u8], WebSocketFault)] = &[
        (&[0xc2, 0x80], WebSocketFault::Reserved),
        (&[0xa2, 0x80], WebSocketFault::Reserved),
        (&[0x92, 0x80], WebSocketFault::Reserved),
        (&[0x02, 0x80], WebSocketFault::Fragmented),
        (&[0x80, 0x80], WebSocketFault::Fragmented),
        (&[0x09, 0x80], WebSocketFault::Fragmented),
        (&[0x81, 0x80], WebSocketFault::Opcode(1)),
        (&[0x83, 0x80], WebSocketFault::Opcode(3)),
        (&[0x8b, 0x80], WebSocketFault::Opcode(11)),
        (&[0x82, 0x00], WebSocketFault::Masking),
        (&[0x89, 0xfe], WebSocketFault::TooLarge),
        (&[0x82, 0xfe, 0, 125], WebSocketFault::Length),
        (&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], WebSocketFault::Length),
        (&[0x82, 0xff, 0, 0, 0, 0, 0, 3, 0, 1], WebSocketFault::TooLarge),
        (&[0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0], WebSocketFault::TooLarge),
        (&[0x88, 0x81], WebSocketFault::Close),
    ];
    for (head, fault) in faults {
        let wire = [head, &zeros[..]].concat();

        assert_eq!(read_all(Role::Server, &wire), Err(*fault), "{head:02x?}");
    }
    assert_eq!(read_all(Role::Client, &frame(Role::Client, Opcode::Binary, b"x")), Err(WebSocketFault::Masking));
}

#[test]
fn arbitrary_bytes_never_panic_and_mean_the_same_wherever_they_are_cut() {
    bolero::check!().with_iterations(20_000).with_type::<(bool, Vec<u8>, Vec<u8>)>().for_each(
        |(server, wire, cuts)| {
            let role = if *server { Role::Server } else { Role::Client };

            assert_eq!(read_all(role, wire), read_cut(role, wire, cuts.iter().map(|cut| usize::from(*cut))));
        },
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn messages_survive_any_cutting(
        server in any::<bool>(),
        lengths in prop::collection::vec(0_usize..70_000, 1..6),
        cuts in prop::collection::vec(1_usize..9_000, 0..64),
    ) {
        let role = if server { Role::Server } else { Role::Client };
        let messages: Vec<Vec<u8>> = lengths.iter().map(|length| pattern(*length)).collect();
        let wire: Vec<u8> = messages.iter().flat_map(|message| frame(role, Opcode::Binary, message)).collect();

        let read = read_cut(other(role), &wire, cuts.into_iter());

        prop_assert_eq!(read, Ok(messages.into_iter().map(|message| Message::Binary(message.into())).collect()));
    }

    #[test]
    fn tungstenite_reads_what_we_write(server in any::<bool>(), messages in prop::collection::vec(ours(), 1..8)) {
        let role = if server { Role::Server } else { Role::Client };
        let wire: Vec<u8> = messages.iter().flat_map(|(opcode, payload)| frame(role, *opcode, payload)).collect();
        let mut socket = WebSocket::from_raw_socket(Wire::of(wire), their(other(role)), Some(config()));

        for (opcode, payload) in &messages {
            let expected = match opcode {
                Opcode::Binary => Theirs::Binary(payload.clone().into()),
                Opcode::Ping => Theirs::Ping(payload.clone().into()),
                Opcode::Pong => Theirs::Pong(payload.clone().into()),
                Opcode::Close => unreachable!("not generated"),
            };
            prop_assert_eq!(socket.read().unwrap(), expected);
        }
    }

    #[test]
    fn we_read_what_tungstenite_writes(server in any::<bool>(), messages in prop::collection::vec(ours(), 1..8)) {
        let role = if server { Role::Server } else { Role::Client };
        let mut socket = WebSocket::from_raw_socket(Wire::of(Vec::new()), their(role), Some(config()));
        let mut expected = Vec::new();
        for (opcode, payload) in messages {
            let payload = Bytes::from(payload);
            let (message, read) = match opcode {
                Opcode::Binary => (Theirs::Binary(payload.clone()), Message::Binary(payload)),
                Opcode::Ping => (Theirs::Ping(payload.clone()), Message::Ping(payload)),
                Opcode::Pong => (Theirs::Pong(payload), Message::Pong),
                Opcode::Close => unreachable!("not generated"),
            };
            socket.send(message).unwrap();
            expected.push(read);
        }
        socket.close(None).unwrap();
        expected.push(Message::Close(None));

        prop_assert_eq!(read_all(other(role), &socket.get_ref().written), Ok(expected));
    }
}

fn ours() -> impl Strategy<Value = (Opcode, Vec<u8>)> {
    let bytes = |most: usize| prop::collection::vec(any::<u8>(), 0..=most);
    prop_oneof![
        4 => bytes(600).prop_map(|payload| (Opcode::Binary, payload)),
        1 => (65_500_usize..65_600).prop_map(|length| (Opcode::Binary, pattern(length))),
        1 => bytes(CONTROL_BYTES_MAX).prop_map(|payload| (Opcode::Ping, payload)),
        1 => bytes(CONTROL_BYTES_MAX).prop_map(|payload| (Opcode::Pong, payload)),
    ]
}

fn frame(role: Role, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let mut keys = MaskKeys::new(u64::try_from(payload.len()).unwrap());
    let head = FrameHead::seal(role, opcode, &mut payload, &mut keys);
    [head.as_bytes(), &payload].concat()
}

fn read_all(role: Role, wire: &[u8]) -> Result<Vec<Message>, WebSocketFault> {
    read_cut(role, wire, std::iter::empty())
}

/// Reads in pieces of these sizes, and what is left in one.
fn read_cut(role: Role, wire: &[u8], cuts: impl Iterator<Item = usize>) -> Result<Vec<Message>, WebSocketFault> {
    let mut decoder = Decoder::new(role, MESSAGE_BYTES_MAX);
    let mut read = Vec::new();
    let mut rest = wire;
    for cut in cuts.chain([usize::MAX]) {
        let (mut piece, later) = rest.split_at(cut.min(rest.len()));
        while let Some(message) = decoder.decode(&mut piece)? {
            read.push(message);
        }
        assert!(piece.is_empty(), "{} bytes were not taken", piece.len());
        rest = later;
    }
    Ok(read)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

const fn other(role: Role) -> Role {
    match role {
        Role::Server => Role::Client,
        Role::Client => Role::Server,
    }
}

const fn their(role: Role) -> TheirRole {
    match role {
        Role::Server => TheirRole::Server,
        Role::Client => TheirRole::Client,
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default().write_buffer_size(0)
}

/// A connection that was recorded, or records.
struct Wire {
    unread: Cursor<Vec<u8>>,
    written: Vec<u8>,
}

impl Wire {
    fn of(unread: Vec<u8>) -> Self {
        Self { unread: Cursor::new(unread), written: Vec::new() }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.unread.read(into)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.written.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
