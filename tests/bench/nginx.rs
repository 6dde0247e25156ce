//! nginx as a reverse proxy: to the vendor over TLS, and to either end of rathole.
//!
//! Invariant: the same settings on every way; only the address and TLS to the vendor differ.

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use anyhow::Result;
use keyhaven_tests::process::Process;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;

use crate::cpu;
use crate::keyhaven::VENDOR_KEY;
use crate::keyhaven::free_port;

/// One way through nginx.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    /// Where it is called.
    pub(crate) listen: SocketAddr,
    /// Where it leads.
    pub(crate) to: SocketAddr,
    /// Whether TLS is spoken there, with the vendor's name checked.
    pub(crate) tls: bool,
}

impl Way {
    /// A way from a free port.
    pub(crate) fn to(to: SocketAddr, tls: bool) -> Result<Self> {
        Ok(Self { listen: free_port()?, to, tls })
    }
}

/// nginx with a prefix of its own, as the current user, in the foreground.
pub(crate) struct Nginx {
    master: Process,
}

impl Nginx {
    /// Starts it with all these ways.
    pub(crate) fn start(dir: &Path, ways: &[Way], ca_pem: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir.join("temp"))?;
        std::fs::write(dir.join("nginx.conf"), configuration(ways, ca_pem)?)?;
        let mut command = Command::new(program()?);
        command.arg("-p").arg(dir).arg("-c").arg("nginx.conf").arg("-e").arg("error.log");
        Ok(Self { master: Process::start(command)? })
    }

    /// Its master process.
    pub(crate) fn pid(&self) -> u32 {
        self.master.pid()
    }
}

impl Drop for Nginx {
    /// A master that is killed leaves its workers behind; while it lives it makes new ones.
    fn drop(&mut self) {
        let master = self.master.pid();
        let workers = cpu::family(master).into_iter().filter(|pid| *pid != master);
        let workers: Vec<Pid> = workers.filter_map(|pid| i32::try_from(pid).ok()).filter_map(Pid::from_raw).collect();
        // Both fail only for those that have ended already.
        let _ = self.master.kill_9();
        for worker in workers {
            let _ = kill_process(worker, Signal::KILL);
        }
    }
}

fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    places.map(|place| place.join("nginx")).find(|file| file.is_file()).context("no nginx: run tests/install.sh")
}

fn configuration(ways: &[Way], ca_pem: &Path) -> Result<String> {
    let name = |flag: &str| -> Result<String> {
        let output = Command::new("id").arg(flag).output().context("ask `id` for the current user")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // Without this, a master that is root would make workers that cannot read the prefix.
    let user = if rustix::process::getuid().is_root() {
        format!("user {} {};", name("-un")?, name("-gn")?)
    } else {
        String::new()
    };
    let servers: String = ways.iter().enumerate().map(|(at, way)| server(at, *way, ca_pem)).collect();
    Ok(format!(
        "{user}
daemon off;
worker_processes 2;
worker_rlimit_nofile 16384;
pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;
    client_max_body_size 64m;
    keepalive_requests 100000000;
{servers}}}
"
    ))
}

fn server(at: usize, way: Way, ca_pem: &Path) -> String {
    let Way { listen, to, tls } = way;
    let scheme = if tls { "https" } else { "http" };
    let ca = ca_pem.display();
    let verify = if tls {
        format!(
            "
            proxy_ssl_name api.openai.com;
            proxy_ssl_server_name on;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {ca};"
        )
    } else {
        String::new()
    };
    format!(
        "    upstream vendor{at} {{
        server {to};
        keepalive 512;
        keepalive_requests 100000000;
    }}
    server {{
        listen {listen} backlog=4096;
        location / {{
            proxy_pass {scheme}://vendor{at};
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host api.openai.com;
            proxy_set_header Authorization \"Bearer {VENDOR_KEY}\";{verify}
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
"
    )
}
