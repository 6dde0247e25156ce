//! Realtime WebSockets through hub and agent: who ends, breaks or lies, and who notices.
//!
//! Invariant: the vendor's connection and the consumer's end together, and a vendor's false
//! handshake never becomes a WebSocket.

use crate::scene::Scene;
use anyhow::Context;
use anyhow::Result;
use futures_util::SinkExt;
use futures_util::StreamExt;
use keyhaven_tests::daemons::PATIENCE;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::upstream::play::CASE_HEADER;
use keyhaven_tests::upstream::play::PLAY_HEADER;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;

type Socket = WebSocketStream<TcpStream>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_held_and_closed_and_every_byte_is_the_vendors() -> Result<()> {
    let scene = Scene::build().await?;
    let mut socket = connect(&scene, "held", "").await?;

    let created = event(&mut socket).await?;
    socket.send(Message::text(json!({"type": "session.update", "session": {"type": "realtime"}}).to_string())).await?;
    let updated = event(&mut socket).await?;
    socket.close(None).await?;
    while let Some(Ok(_)) = socket.next().await {}

    assert_eq!((&created["type"], &updated["type"]), (&json!("session.created"), &json!("session.updated")));
    let exchange =
        scene.upstream.wait_for(|exchange| exchange.case.as_deref() == Some("held") && exchange.over()).await?;
    assert!(exchange.request.head.first("authorization").is_some_and(|key| !key.contains(&scene.api_key)));
    assert_eq!(exchange.request.head.first("sec-websocket-extensions"), None);
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_leaves_takes_the_vendors_connection_along() -> Result<()> {
    let scene = Scene::build().await?;
    for (case, reset) in [("closes", false), ("resets", true)] {
        let mut socket = connect(&scene, case, "").await?;
        event(&mut socket).await?;
        if reset {
            socket.get_ref().set_zero_linger()?;
        }
        drop(socket);

        scene.upstream.wait_for(|exchange| exchange.case.as_deref() == Some(case) && exchange.over()).await?;
    }
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_that_breaks_off_takes_the_consumers_connection_along() -> Result<()> {
    let scene = Scene::build().await?;
    for play in ["reset", "cut-body"] {
        let mut socket = connect(&scene, play, play).await?;

        let end = tokio::time::timeout(PATIENCE, async {
            while let Some(Ok(message)) = socket.next().await {
                if message.is_close() {
                    return Some(message);
                }
            }
            None
        });

        assert_eq!(end.await.context(play)?, None, "{play}: no goodbye that the vendor did not say");
    }
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_handshake_of_the_vendor_is_an_error_and_no_websocket() -> Result<()> {
    let scene = Scene::build().await?;
    let false_101 = ["bad-accept", "no-accept", "extension", "other-protocol", "switch-101"];
    for play in false_101.into_iter().chain(["cut-head", "reset-head", "half-close-head"]) {
        let status = refusal(&scene, play, play).await.context(play)?;
        assert_eq!(status, 502, "{play}");
    }
    let status = refusal(&scene, "refused", "status-400").await?;
    assert_eq!(status, 400, "the vendor's own answer");
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_that_ends_its_half_or_leaves_the_protocol_is_passed_on_as_it_is() -> Result<()> {
    let scene = Scene::build().await?;
    for play in ["half-close-body", "garbage"] {
        let mut socket = connect(&scene, play, play).await?;

        let end = tokio::time::timeout(PATIENCE, async {
            loop {
                match socket.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Some(error),
                    None => return None,
                }
            }
        });
        let end = end.await.context(play)?.context("an end in order")?;

        let is_cut = matches!(&end, tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake));
        assert_eq!(is_cut, play == "half-close-body", "{play}: {end}");
        drop(socket);
        scene.upstream.wait_for(|exchange| exchange.case.as_deref() == Some(play) && exchange.over()).await?;
    }
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_ends_its_sessions_and_the_next_one_is_held() -> Result<()> {
    let mut scene = Scene::build().await?;
    let mut socket = connect(&scene, "killed", "").await?;
    event(&mut socket).await?;

    scene.agent_process.kill_9()?;
    let ended = tokio::time::timeout(PATIENCE, async { while let Some(Ok(_)) = socket.next().await {} });
    ended.await.context("the consumer is not told")?;
    scene.agent_process = scene.agent.start_before(&scene.upstream)?;
    let mut socket = connect(&scene, "next", "").await?;

    assert_eq!(event(&mut socket).await?["type"], "session.created");
    drop(socket);
    eventually("no stream left", || async {
        let links = scene.site.links().await?;
        Ok(links.iter().all(|link| link["streams"] == 0).then_some(()))
    })
    .await
}

async fn connect(scene: &Scene, case: &str, play: &str) -> Result<Socket> {
    let stream = TcpStream::connect(scene.hub.consumer).await?;
    let (socket, _) = tokio::time::timeout(PATIENCE, client_async(request(scene, case, play)?, stream)).await??;
    Ok(socket)
}

/// The status in place of a WebSocket.
async fn refusal(scene: &Scene, case: &str, play: &str) -> Result<u16> {
    let stream = TcpStream::connect(scene.hub.consumer).await?;
    match tokio::time::timeout(PATIENCE, client_async(request(scene, case, play)?, stream)).await? {
        Err(tungstenite::Error::Http(answer)) => Ok(answer.status().as_u16()),
        Err(other) => Err(other.into()),
        Ok(_) => anyhow::bail!("a WebSocket"),
    }
}

fn request(scene: &Scene, case: &str, play: &str) -> Result<http::Request<()>> {
    let url = format!("ws://{}/v1/realtime?model=gpt-realtime", scene.hub.consumer);
    let mut request = url.into_client_request()?;
    let headers = request.headers_mut();
    headers.insert("authorization", format!("Bearer {}", scene.api_key).parse()?);
    headers.insert(CASE_HEADER, case.parse()?);
    if !play.is_empty() {
        headers.insert(PLAY_HEADER, play.parse()?);
    }
    Ok(request)
}

/// The next event of the vendor.
async fn event(socket: &mut Socket) -> Result<Value> {
    let message = tokio::time::timeout(PATIENCE, socket.next()).await?.context("the end came first")??;
    Ok(serde_json::from_str(message.to_text()?)?)
}
