//! Starts the recording upstream and prints where it is, for benchmarks and for people.
//!
//! Invariant: prints one line of JSON and nothing else to stdout; serves until it is told to end.

use anyhow::Result;
use anyhow::bail;
use keyhaven_tests::ca::TestCa;
use keyhaven_tests::clients;
use keyhaven_tests::upstream::Upstream;
use keyhaven_tests::upstream::settings::Settings;
use serde_json::json;
use std::io::Write;
use std::sync::Arc;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut settings = Settings::default();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--no-record" => settings.record = false,
            _ => bail!("usage: upstream [--no-record]"),
        }
    }
    let mut end = signal(SignalKind::terminate())?;
    let ca = Arc::new(TestCa::new()?);
    let upstream = Upstream::start_with(settings, Arc::clone(&ca))?;
    let line = json!({
        "tls_addr": upstream.addr(),
        "plain_addr": upstream.plain_addr(),
        "ca_pem": ca.ca_pem(),
        "leaf_pem": ca.leaf_pem(),
        "leaf_key": ca.leaf_key(),
        "upstream_map": upstream.upstream_map(),
        "direct": clients::direct(&upstream),
    });
    writeln!(std::io::stdout(), "{line}")?;
    tokio::select! {
        _ = end.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}
