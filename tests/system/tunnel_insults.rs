//! The tunnel's listener and the agent's dialler under insult: no proof, a false proof, no frames,
//! false frames, too slow, too many.
//!
//! Invariant: whatever comes, it ends that connection at most; another agent's link and calls go on.

use crate::scene::Scene;
use anyhow::Context;
use anyhow::Result;
use bytes::Bytes;
use futures_util::SinkExt;
use keyhaven_daemon::tls::tunnel_server;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Auth;
use keyhaven_protocol::frame::BATCH_BYTES_MAX;
use keyhaven_protocol::frame::Challenge;
use keyhaven_protocol::frame::Egress;
use keyhaven_protocol::frame::FLAG_OPTIONAL;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::Refuse;
use keyhaven_protocol::frame::put_frame;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::handshake::TUNNEL_PATH;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::join_token::JoinToken;
use keyhaven_protocol::pin::Pin;
use keyhaven_tests::daemons::AgentSite;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::daemons::PATIENCE;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::daemons::failure_code;
use keyhaven_tests::raw_agent;
use keyhaven_tests::raw_agent::RawAgent;
use keyhaven_tests::raw_agent::RawLink;
use keyhaven_tests::raw_agent::Verdict;
use keyhaven_tests::raw_agent::odd_frame;
use rcgen::PublicKeyData;
use rustls_pki_types::PrivatePkcs8KeyDer;
use std::net::SocketAddr;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;

/// A key for an upgrade; any will do.
const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_says_nothing_to_a_server_whose_key_is_not_pinned() -> Result<()> {
    let impostor = FakeHub::listen().await?;
    let token = JoinToken { pins: vec![Pin(Hex([1; 32])), Pin(Hex([2; 32]))], ..impostor.token() };
    let dir = tempfile::tempdir()?;
    let agent = AgentSite::new(dir.path());
    let text = token.encode();

    let (finished, handshake) = tokio::join!(agent.run(&["join", "-", "--json"], &text), impostor.accept());

    let finished = finished?;
    assert_eq!((finished.code, failure_code(&finished).as_deref()), (Some(6), Some("KH-E1002")), "{}", finished.stderr);
    // TLS itself ended with an alert: not one byte of ours was ever sent.
    assert!(handshake.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_names_what_is_wrong_with_a_hub_that_has_the_right_key() -> Result<()> {
    let challenge = |versions: &[u16], fleet| Challenge {
        versions: versions.to_vec(),
        nonce: Hex([1; 32]),
        fleet,
        software: "fake".to_owned(),
    };
    let hub = FakeHub::listen().await?;
    let fleet = hub.token().fleet;
    let refusal = |code: &str| Refuse { code: code.to_owned(), message: "no".to_owned(), retry_after_ms: 0 };
    let cases = [
        (FrameKind::Challenge, to_json(&challenge(&[9], fleet)), ErrorCode::VersionUnsupported),
        (FrameKind::Challenge, to_json(&challenge(&[], fleet)), ErrorCode::VersionUnsupported),
        (FrameKind::Challenge, Bytes::from_static(b"{}"), ErrorCode::LinkProtocol),
        (FrameKind::Welcome, Bytes::from_static(b"{\"link\":1,\"streams_max\":1}"), ErrorCode::LinkProtocol),
        (FrameKind::Data, Bytes::from_static(&[0; 60_000]), ErrorCode::LinkProtocol),
        (FrameKind::Refuse, to_json(&refusal("KH-E2010")), ErrorCode::HubBusy),
        (FrameKind::Refuse, to_json(&refusal("nonsense")), ErrorCode::HandshakeRefused),
        (FrameKind::Refuse, Bytes::from_static(b"[]"), ErrorCode::LinkProtocol),
    ];

    for (at, (kind, payload, code)) in cases.into_iter().enumerate() {
        let dir = tempfile::tempdir()?;
        let agent = AgentSite::new(dir.path());
        let text = hub.token().encode();
        let say = async {
            let mut socket = tokio_tungstenite::accept_async(hub.accept().await?).await?;
            let mut out = bytes::BytesMut::new();
            put_frame(&mut out, kind, 0, &payload);
            socket.send(Message::Binary(out.freeze())).await?;
            anyhow::Ok(socket)
        };
        let (finished, socket) = tokio::join!(agent.run(&["join", "-", "--json"], &text), say);
        let finished = finished?;
        socket?;
        assert_eq!(failure_code(&finished), Some(code.to_string()), "case {at}: {}", finished.stderr);
        assert_eq!(finished.code, Some(i32::from(code.exit() as u8)), "case {at}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_asks_for_no_tunnel_is_a_bare_404_or_nothing() -> Result<()> {
    let scene = Scene::build().await?;
    let bomb = format!("{UPGRADE}x-bomb: {}\r\n", "b".repeat(20_000));
    let cases = [
        (format!("GET / HTTP/1.1\r\nhost: h\r\n{UPGRADE}\r\n"), "404"),
        (format!("GET {TUNNEL_PATH}/ HTTP/1.1\r\nhost: h\r\n{UPGRADE}\r\n"), "404"),
        (format!("GET /{TUNNEL_PATH} HTTP/1.1\r\nhost: h\r\n{UPGRADE}\r\n"), "404"),
        (format!("GET /keyhaven/%74unnel HTTP/1.1\r\nhost: h\r\n{UPGRADE}\r\n"), "404"),
        (format!("GET /Keyhaven/Tunnel HTTP/1.1\r\nhost: h\r\n{UPGRADE}\r\n"), "404"),
        (format!("POST {TUNNEL_PATH} HTTP/1.1\r\nhost: h\r\n{UPGRADE}\r\n"), "404"),
        (format!("HEAD {TUNNEL_PATH} HTTP/1.1\r\nhost: h\r\n{UPGRADE}\r\n"), "404"),
        (format!("GET {TUNNEL_PATH} HTTP/1.1\r\nhost: h\r\n\r\n"), "404"),
        (format!("GET {TUNNEL_PATH} HTTP/1.1\r\nhost: h\r\n{}\r\n", UPGRADE.replace("13", "8")), "404"),
        (format!("GET {TUNNEL_PATH} HTTP/1.1\r\nhost: h\r\n{}\r\n", UPGRADE.replace("websocket\r", "h2c\r")), "404"),
        (format!("GET {TUNNEL_PATH} HTTP/1.1\r\nhost: h\r\n{bomb}\r\n"), "431"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), ""),
        ("\u{0}\u{1}\u{2}garbage\r\n\r\n".to_owned(), "400"),
    ];

    for (request, status) in cases {
        let mut stream = raw_agent::tls(scene.hub.tunnel).await?;
        stream.write_all(request.as_bytes()).await?;
        let answer = to_end(stream).await?;
        let said = answer.strip_prefix("HTTP/1.1 ").map_or("", |rest| &rest[..3]);
        assert_eq!(said, status, "{request:.80}: {answer}");
        assert!(answer.is_empty() || answer.ends_with("\r\n\r\n"), "no body, nothing told: {answer}");
    }
    let mut plain = TcpStream::connect(scene.hub.tunnel).await?;
    plain.write_all(b"GET /keyhaven/tunnel HTTP/1.1\r\nhost: h\r\n\r\n").await?;
    assert!(!to_end(plain).await?.contains("HTTP"), "nothing is said without TLS");
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_is_offered_and_not_accepted() -> Result<()> {
    let scene = Scene::build().await?;
    let mut stream = raw_agent::tls(scene.hub.tunnel).await?;
    let offer = "sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n";
    let request = format!("GET {TUNNEL_PATH} HTTP/1.1\r\nhost: h\r\n{UPGRADE}{offer}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }

    let head = String::from_utf8(head)?.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "the accept key of RFC 6455: {head}");
    assert!(!head.contains("extensions"), "{head}");
    // A frame whose first reserved bit says that it is compressed ends the connection.
    stream.write_all(&[0xc2, 0x81, 0, 0, 0, 0, 0]).await?;
    let _rest = to_end_bytes(stream).await?;
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anything_but_one_auth_frame_ends_the_handshake() -> Result<()> {
    let scene = Scene::build().await?;
    let auth = FrameKind::Auth.number();
    let long = vec![b' '; 5000];
    let twice = [odd_frame(auth, 0, 2, 0, b"{}"), odd_frame(auth, 0, 2, 0, b"{}")].concat();
    let cases = [
        Message::text("{}"),
        Message::Binary(Bytes::new()),
        Message::Binary(Bytes::from_static(&[2])),
        Message::Binary(odd_frame(auth, 0, 100, 0, b"{}")),
        Message::Binary(odd_frame(auth, 0, 2, 0, b"{}")),
        Message::Binary(odd_frame(auth, 0, 5000, 0, &long)),
        Message::Binary(odd_frame(FrameKind::Offer.number(), 0, 2, 0, b"{}")),
        Message::Binary(odd_frame(0x7f, 0, 0, 0, b"")),
        Message::Binary(odd_frame(0x7f, FLAG_OPTIONAL, 0, 0, b"")),
        Message::Binary(twice.into()),
        Message::Binary(vec![0; BATCH_BYTES_MAX + 1].into()),
    ];

    for (at, message) in cases.into_iter().enumerate() {
        let mut link = RawLink::open(scene.hub.tunnel).await?;
        link.challenge().await?;
        // A message that is too large may be cut off while it is sent.
        let _sent = link.socket.send(message).await;
        let verdict = link.verdict().await?;
        assert!(matches!(&verdict, Verdict::Closed) || verdict == refused("KH-E1008"), "case {at}: {verdict:?}");
        link.until_closed().await?;
    }
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_holds_for_one_connection_one_agent_and_one_key() -> Result<()> {
    let scene = Scene::build().await?;
    let tunnel = scene.hub.tunnel;
    let agent = RawAgent::new(&scene.site.invite("raw").await?, 1)?;
    let invited = RawAgent::new(&scene.site.invite("invited").await?, 2)?;
    agent.join(tunnel).await?;
    let mut first = RawLink::open(tunnel).await?;
    let challenge = first.challenge().await?;
    let good = agent.answer(&challenge, &first.binding, None)?;
    assert_eq!(first.present(&good).await?, Verdict::Welcome);
    drop(first);

    let replayed = {
        let mut link = RawLink::open(tunnel).await?;
        link.challenge().await?;
        link.present(&good).await?
    };
    // Whoever stands in between has the hub's challenge signed by an agent that is connected to him.
    let relayed = {
        let (mut to_hub, to_agent) = (RawLink::open(tunnel).await?, RawLink::open(tunnel).await?);
        let challenge = to_hub.challenge().await?;
        let auth = agent.answer(&challenge, &to_agent.binding, None)?;
        to_hub.present(&auth).await?
    };
    assert_eq!(replayed, refused("KH-E1004"));
    assert_eq!(relayed, refused("KH-E1004"));

    let other_key = RawAgent { key: invited.key.clone(), ..RawAgent::new(&agent.token.encode(), 3)? };
    let other_key = other_key.prove(tunnel, false).await?.1;
    let nobody = JoinToken { agent: AgentId([9; 16]), ..agent.token.clone() };
    let nobody = RawAgent::new(&nobody.encode(), 1)?.prove(tunnel, false).await?.1;
    let not_joined = invited.prove(tunnel, false).await?.1;
    let anothers = JoinToken { agent: agent.token.agent, ..invited.token.clone() };
    let anothers = RawAgent::new(&anothers.encode(), 4)?.prove(tunnel, true).await?.1;
    for verdict in [other_key, nobody, not_joined, anothers] {
        assert_eq!(verdict, refused("KH-E1004"));
    }

    let changes: [(Change, &str); 6] = [
        (|auth| Auth { version: 2, ..auth }, "KH-E1003"),
        (|auth| Auth { version: 0, ..auth }, "KH-E1003"),
        (|auth| Auth { egress: Egress::Official, ..auth }, "KH-E1004"),
        (|auth| Auth { signature: Hex([0; 64]), ..auth }, "KH-E1004"),
        (|auth| Auth { public_key: Hex([0; 32]), ..auth }, "KH-E1004"),
        (|auth| Auth { public_key: Hex([0xff; 32]), ..auth }, "KH-E1004"),
    ];
    for (at, (change, code)) in changes.into_iter().enumerate() {
        let mut link = RawLink::open(tunnel).await?;
        let challenge = link.challenge().await?;
        let auth = change(agent.answer(&challenge, &link.binding, None)?);
        assert_eq!(link.present(&auth).await?, refused(code), "change {at}");
    }
    scene.site.json(&["agent", "revoke", "raw", "--yes"]).await?;
    let revoked = eventually("a refusal", || async {
        let (_, verdict) = agent.prove(tunnel, false).await?;
        Ok((verdict != Verdict::Welcome).then_some(verdict))
    })
    .await?;
    assert_eq!(revoked, refused("KH-E1005"));
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_with_loopback_upstreams_is_not_let_in_by_a_hub_that_others_can_reach() -> Result<()> {
    for field in ["tunnel.listen", "consumer.listen"] {
        let dir = tempfile::tempdir()?;
        let site = HubSite::new(dir.path()).set(field, "0.0.0.0:0");
        let hub = site.start().await?;
        let tunnel = SocketAddr::from(([127, 0, 0, 1], hub.tunnel.port()));
        let address = tunnel.to_string();
        let invited = site.json(&["agent", "invite", "--name", "office", "--address", &address]).await?;
        let loopback = RawAgent::new(invited["token"].as_str().context("no token")?, 1)?;
        let official = RawAgent { egress: Egress::Official, ..RawAgent::new(&loopback.token.encode(), 1)? };

        let (_, refusal) = loopback.prove(tunnel, true).await?;
        let state = site.json(&["agent", "show", "office"]).await?;

        assert_eq!(refusal, refused("KH-E1009"), "{field}");
        assert_eq!(state["join_tokens"][0]["state"], "issued", "the token is still good");
        official.link(tunnel, true).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_copies_of_one_agent_are_suspended_when_they_fight() -> Result<()> {
    let scene = Scene::build().await?;
    let original = AgentSite::new(&scene.dir.path().join("original"));
    original.join(&scene.site.invite("twin").await?).await?;
    let copy = AgentSite::new(&scene.dir.path().join("copy"));
    std::fs::create_dir(copy.dir())?;
    for file in ["vault.json", "vault.key"] {
        std::fs::copy(original.dir().join(file), copy.dir().join(file))?;
    }

    let mut processes = [original.start(&["run"])?, copy.start(&["run"])?];

    let until = eventually("a suspension", || async {
        let shown = scene.site.json(&["agent", "show", "twin"]).await?;
        Ok(shown["suspended_until_unix_ms"].as_u64())
    })
    .await?;
    assert!(until > keyhaven_daemon::clock::unix_ms_now());
    for process in &mut processes {
        process.says("KH-E1007", PATIENCE).await?;
    }
    let shown = scene.site.json(&["agent", "show", "twin"]).await?;
    assert_eq!((&shown["state"], &shown["linked"]), (&"active".into(), &false.into()), "{shown}");
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_dawdle_are_given_up_and_make_room() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = HubSite::new(dir.path()).set("tunnel.handshake_timeout_s", "1").set("tunnel.handshakes_max", "3");
    let hub = site.start().await?;
    let agent = RawAgent::new(&site.invite("office").await?, 1)?;

    // One is silent before TLS, one before HTTP, one before the proof.
    let silent = TcpStream::connect(hub.tunnel).await?;
    let before_http = raw_agent::tls(hub.tunnel).await?;
    let mut before_proof = RawLink::open(hub.tunnel).await?;
    before_proof.challenge().await?;

    agent.join(hub.tunnel).await?;
    assert_eq!(to_end(silent).await?, "");
    assert_eq!(to_end(before_http).await?, "");
    assert_eq!(before_proof.verdict().await?, Verdict::Closed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_live_link_what_may_be_skipped_is_skipped() -> Result<()> {
    let scene = Scene::build().await?;
    let agent = RawAgent::new(&scene.site.invite("raw").await?, 1)?;
    agent.join(scene.hub.tunnel).await?;
    let mut link = agent.link(scene.hub.tunnel, false).await?;
    link.answer_ping().await?;
    let skipped = [
        Message::Ping(Bytes::from_static(b"theirs")),
        Message::Binary(Bytes::new()),
        Message::Binary(odd_frame(0x7f, FLAG_OPTIONAL, 3, 0, b"new")),
        Message::Binary(odd_frame(0x7f, FLAG_OPTIONAL, 3, 77, b"new")),
        // Streams that are over, or never were: late frames are no fault.
        Message::Binary(odd_frame(FrameKind::Head.number(), 0, 4, 77, &[0, 200, 0, 0])),
        Message::Binary(odd_frame(FrameKind::Data.number(), 0, 1, 77, b"x")),
        Message::Binary(odd_frame(FrameKind::End.number(), 0, 0, 77, b"")),
        Message::Binary(odd_frame(FrameKind::Abort.number(), 0, 1, 77, b"x")),
        Message::Binary(odd_frame(FrameKind::Credit.number(), 0, 2, 77, b"xx")),
        Message::Binary(odd_frame(0x7f, 0, 0, 77, b"")),
        Message::Binary(odd_frame(FrameKind::Pong.number(), 0, 8, 0, &[9; 8])),
    ];

    for (at, message) in skipped.into_iter().enumerate() {
        link.socket.send(message).await?;
        link.send_frame(FrameKind::Ping, 0, &[u8::try_from(at)?; 8]).await?;
        loop {
            let frame = link.frame().await?.with_context(|| format!("closed after {at}"))?;
            if frame.kind == FrameKind::Pong.number() {
                assert_eq!(frame.payload[..], [u8::try_from(at)?; 8]);
                break;
            }
        }
    }
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_live_link_a_fault_of_the_link_ends_it_with_its_reason() -> Result<()> {
    let scene = Scene::build().await?;
    let tunnel = scene.hub.tunnel;
    let agent = RawAgent::new(&scene.site.invite("raw").await?, 1)?;
    agent.join(tunnel).await?;
    let number = FrameKind::number;
    let big = vec![0; 70_000];
    let faults = [
        odd_frame(0x7f, 0, 0, 0, b""),
        Bytes::from_static(&[0x20, 0, 0]),
        odd_frame(number(FrameKind::Data), 0, 1000, 1, b"short"),
        odd_frame(number(FrameKind::Ping), 0, 7, 0, &[0; 7]),
        odd_frame(number(FrameKind::Ping), 0, 8, 5, &[0; 8]),
        odd_frame(number(FrameKind::Data), 0, 1, 0, b"x"),
        odd_frame(number(FrameKind::Welcome), 0, 2, 0, b"{}"),
        odd_frame(number(FrameKind::Auth), 0, 2, 0, b"{}"),
        odd_frame(number(FrameKind::Open), 0, 1, 1, b"x"),
        odd_frame(number(FrameKind::Offer), 0, 9, 0, b"no offer!"),
        odd_frame(number(FrameKind::Offer), 0, 70_000, 0, &big),
        odd_frame(number(FrameKind::Withdraw), 0, 2, 0, b"{}"),
        odd_frame(number(FrameKind::Prices), 0, 3, 0, &[1, 0, 9]),
        odd_frame(number(FrameKind::Prices), 0, 3, 0, &[1, 255, 255]),
        odd_frame(number(FrameKind::Prices), 0, 1, 0, &[2]),
        // A part of a table, which only hubs send.
        odd_frame(number(FrameKind::Prices), 0, 110, 0, &[0; 110]),
        odd_frame(number(FrameKind::Drain), 0, 2, 0, b"[]"),
    ];

    let text = Message::text("not ours");
    for (at, fault) in faults.map(Message::Binary).into_iter().chain([text]).enumerate() {
        let mut link = eventually("a link", || async {
            let (mut link, verdict) = agent.prove(tunnel, false).await?;
            if verdict == Verdict::Welcome {
                link.answer_ping().await?;
                return Ok(Some(link));
            }
            Ok(None)
        })
        .await?;
        link.socket.send(fault).await?;
        assert_eq!(link.verdict().await?, refused("KH-E1008"), "fault {at}");
        link.until_closed().await?;
        // The hub must have seen the end, or the next link would count as a fight.
        eventually("the end of the link", || async { Ok((scene.site.links().await?.len() == 1).then_some(())) })
            .await?;
    }
    let mut link = agent.link(tunnel, false).await?;
    let _sent = link.send(vec![0; BATCH_BYTES_MAX + 1].into()).await;
    link.until_closed().await?;
    scene.unharmed().await
}

fn refused(code: &str) -> Verdict {
    Verdict::Refused(code.to_owned())
}

async fn to_end(stream: impl AsyncReadExt + Unpin) -> Result<String> {
    Ok(String::from_utf8_lossy(&to_end_bytes(stream).await?).into_owned())
}

/// Everything until the other side closes, by whichever way.
async fn to_end_bytes(mut stream: impl AsyncReadExt + Unpin) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // A reset, and TLS without a goodbye, end a connection too.
    let _ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.context("it stays open")?;
    Ok(bytes)
}

/// What is done to a proof after it was signed.
type Change = fn(Auth) -> Auth;

/// A server with a tunnel key of its own, played by the test.
struct FakeHub {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    pin: Pin,
}

impl FakeHub {
    async fn listen() -> Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let pin = Pin::of_spki(&key.subject_public_key_info());
        let acceptor = TlsAcceptor::from(tunnel_server(&PrivatePkcs8KeyDer::from(key.serialize_der()))?);
        Ok(Self { listener: TcpListener::bind("127.0.0.1:0").await?, acceptor, pin })
    }

    async fn accept(&self) -> Result<tokio_rustls::server::TlsStream<TcpStream>> {
        let (stream, _) = self.listener.accept().await?;
        Ok(self.acceptor.accept(stream).await?)
    }

    fn token(&self) -> JoinToken {
        JoinToken {
            hub_address: self.listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
            pins: vec![self.pin],
            hub_key: [1; 32],
            fleet: keyhaven_protocol::id::FleetId([2; 16]),
            agent: AgentId([3; 16]),
            token: keyhaven_protocol::id::TokenId([4; 16]),
            secret: [5; 32],
            expires_unix_ms: u64::MAX,
        }
    }
}
