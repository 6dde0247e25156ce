//! The command line, and what it decides: which vendors the demo's agent reaches.
//!
//! Invariant: a route to an upstream leads from an official name to loopback, or the demo does not
//! start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use clap::ValueEnum;
use keyhaven_agent::vault::host::AzureSuffix;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::provider::route::azure_resource;

/// A whole Keyhaven in one process: hub, tunnel, agent, and a made-up vendor on loopback.
///
/// It makes one streamed call itself, prints what you need to make your own, and shows each call as
/// it passes until Ctrl-C. Without --real-vendor nothing leaves this machine.
#[derive(Debug, Parser)]
#[command(name = "keyhaven-demo", version)]
pub(crate) struct Arguments {
    /// Print one line of JSON on standard output once it serves, nothing else, and make no call.
    #[arg(long)]
    pub(crate) json: bool,
    /// Call the real vendor with a key of yours, which is asked for without an echo, or read from
    /// standard input.
    #[arg(long, value_name = "NAME")]
    real_vendor: Option<RealVendor>,
    /// State that the key is yours to use and within the vendor's terms.
    #[arg(long, requires = "real_vendor")]
    attest: bool,
    /// Lead an official host to an upstream of yours on loopback, in place of the sample vendor:
    /// api.openai.com=127.0.0.1:8443, *.openai.azure.com=... May be given several times; hosts
    /// that are not named cannot be reached.
    #[arg(long, value_name = "HOST=ADDRESS", requires = "upstream_ca", conflicts_with = "real_vendor")]
    upstream_map: Vec<UpstreamRoute>,
    /// The authority (PEM) that vouches for those upstreams.
    #[arg(long, value_name = "FILE", requires = "upstream_map")]
    upstream_ca: Option<PathBuf>,
    /// The hub's configuration (YAML); what it sets wins over the demo's defaults.
    #[arg(long, value_name = "FILE")]
    pub(crate) hub_config: Option<PathBuf>,
    /// Keep everything here, the hub in DIR/hub and the agent in DIR/agent, and use it again the
    /// next time. Default: a temporary directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where consumers are served. Default: 127.0.0.1:9000, or a free port when that is taken.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
}

/// A vendor that can be called for real with nothing but a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RealVendor {
    /// api.openai.com
    Openai,
    /// api.anthropic.com
    Anthropic,
    /// api.deepseek.com
    Deepseek,
}

impl RealVendor {
    /// The vendor as everybody else names it.
    pub(crate) const fn provider(self) -> Provider {
        match self {
            Self::Openai => Provider::OpenAi,
            Self::Anthropic => Provider::Anthropic,
            Self::Deepseek => Provider::DeepSeek,
        }
    }
}

/// Who answers the agent's calls.
#[derive(Debug)]
pub(crate) enum Upstream {
    /// The sample vendor in this process.
    Sample,
    /// Somebody else's stand-ins on loopback.
    Mapped {
        /// Which hosts lead where.
        routes: Vec<UpstreamRoute>,
        /// The authority that vouches for them.
        ca_file: PathBuf,
    },
    /// The vendor itself.
    Real {
        /// Which one.
        vendor: RealVendor,
        /// Whether the right to use the key was attested on the command line.
        attested: bool,
    },
}

impl Arguments {
    /// Who answers the agent's calls.
    ///
    /// # Errors
    /// When one host leads to two places.
    pub(crate) fn upstream(&self) -> Result<Upstream, Failure> {
        if let Some(vendor) = self.real_vendor {
            return Ok(Upstream::Real { vendor, attested: self.attest });
        }
        let Some(ca_file) = &self.upstream_ca else { return Ok(Upstream::Sample) };
        let routes = self.upstream_map.clone();
        let mut hosts: Vec<String> = routes.iter().map(|route| route.host.to_string()).collect();
        hosts.sort();
        match hosts.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Failure::new(ErrorCode::UsageInvalid, format!("--upstream-map names {} twice", pair[0]))),
            None => Ok(Upstream::Mapped { routes, ca_file: ca_file.clone() }),
        }
    }
}

/// One `--upstream-map`: an official host and the stand-in for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpstreamRoute {
    /// The official host.
    pub(crate) host: UpstreamHost,
    /// A loopback address.
    pub(crate) address: SocketAddr,
}

/// An official host, or a pattern of Azure's. Prints as the agent's egress takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UpstreamHost {
    /// A vendor with one host.
    One(Provider, &'static str),
    /// `<resource>.<suffix>`, or `*.<suffix>` without a resource.
    Azure {
        /// The resource, in lower case.
        resource: Option<String>,
        /// The domain it is under.
        suffix: AzureSuffix,
    },
}

impl UpstreamHost {
    /// Whose host it is.
    pub(crate) const fn provider(&self) -> Provider {
        match self {
            Self::One(provider, _) => *provider,
            Self::Azure { .. } => Provider::Azure,
        }
    }
}

impl std::fmt::Display for UpstreamHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(_, host) => f.write_str(host),
            Self::Azure { resource, suffix } => {
                write!(f, "{}.{}", resource.as_deref().unwrap_or("*"), suffix.domain())
            }
        }
    }
}

/// Why a `--upstream-map` is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RouteError {
    Form,
    Host,
    Address,
    NotLoopback,
}

impl std::error::Error for RouteError {}

impl std::fmt::Display for RouteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Form => "it is not of the form HOST=IP:PORT",
            Self::Host => {
                "the host is none of api.openai.com, api.anthropic.com, api.deepseek.com, *.openai.azure.com, \
                 *.cognitiveservices.azure.com, *.services.ai.azure.com, nor one name in place of such a star"
            }
            Self::Address => "the address is not IP:PORT",
            Self::NotLoopback => "the address is not a loopback address; the demo calls nobody else by a false name",
        })
    }
}

impl FromStr for UpstreamRoute {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let (host, address) = text.split_once('=').ok_or(RouteError::Form)?;
        let host = host.parse()?;
        let address: SocketAddr = address.parse().map_err(|_| RouteError::Address)?;
        if address.port() == 0 {
            return Err(RouteError::Address);
        }
        if !address.ip().is_loopback() {
            return Err(RouteError::NotLoopback);
        }
        Ok(Self { host, address })
    }
}

impl FromStr for UpstreamHost {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let text = text.to_ascii_lowercase();
        match text.as_str() {
            "api.openai.com" => return Ok(Self::One(Provider::OpenAi, "api.openai.com")),
            "api.anthropic.com" => return Ok(Self::One(Provider::Anthropic, "api.anthropic.com")),
            "api.deepseek.com" => return Ok(Self::One(Provider::DeepSeek, "api.deepseek.com")),
            _ => {}
        }
        let (label, domain) = text.split_once('.').ok_or(RouteError::Host)?;
        let suffix = AzureSuffix::ALL.into_iter().find(|suffix| suffix.domain() == domain).ok_or(RouteError::Host)?;
        let resource = match label {
            "*" => None,
            label => Some(azure_resource(label).ok_or(RouteError::Host)?),
        };
        Ok(Self::Azure { resource, suffix })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    const CA: [&str; 2] = ["--upstream-ca", "ca.pem"];

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn official_hosts_and_azures_patterns_lead_to_loopback() {
        for (text, host, provider) in [
            ("api.openai.com=127.0.0.1:1", "api.openai.com", Provider::OpenAi),
            ("API.Anthropic.com=[::1]:8443", "api.anthropic.com", Provider::Anthropic),
            ("api.deepseek.com=127.8.8.8:65535", "api.deepseek.com", Provider::DeepSeek),
            ("*.openai.azure.com=127.0.0.1:1", "*.openai.azure.com", Provider::Azure),
            ("Acme-1.openai.azure.com=127.0.0.1:1", "acme-1.openai.azure.com", Provider::Azure),
            ("*.cognitiveservices.azure.com=127.0.0.1:1", "*.cognitiveservices.azure.com", Provider::Azure),
            ("acme.services.ai.azure.com=127.0.0.1:1", "acme.services.ai.azure.com", Provider::Azure),
        ] {
            let route: UpstreamRoute = text.parse().unwrap();

            assert_eq!((route.host.to_string().as_str(), route.host.provider()), (host, provider), "{text}");
        }
    }

    #[test]
    fn other_hosts_and_other_addresses_are_refused() {
        for (text, error) in [
            ("api.openai.com", RouteError::Form),
            ("evil.example=127.0.0.1:1", RouteError::Host),
            ("*.api.openai.com=127.0.0.1:1", RouteError::Host),
            ("api.openai.com.=127.0.0.1:1", RouteError::Host),
            ("*.azure.com=127.0.0.1:1", RouteError::Host),
            ("a.b.openai.azure.com=127.0.0.1:1", RouteError::Host),
            ("-a.openai.azure.com=127.0.0.1:1", RouteError::Host),
            ("=127.0.0.1:1", RouteError::Host),
            ("api.openai.com=localhost:1", RouteError::Address),
            ("api.openai.com=127.0.0.1", RouteError::Address),
            ("api.openai.com=127.0.0.1:0", RouteError::Address),
            ("api.openai.com=10.0.0.1:443", RouteError::NotLoopback),
            ("api.openai.com=0.0.0.0:443", RouteError::NotLoopback),
        ] {
            assert_eq!(text.parse::<UpstreamRoute>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_map_needs_its_authority_and_the_other_way_round() {
        assert!(parsed(&["--upstream-map", "api.openai.com=127.0.0.1:1"]).is_err());
        assert!(parsed(&CA).is_err());
        let arguments = parsed(&["--upstream-map", "api.openai.com=127.0.0.1:1", CA[0], CA[1]]).unwrap();
        assert!(matches!(arguments.upstream(), Ok(Upstream::Mapped { routes, .. }) if routes.len() == 1));
    }

    #[test]
    fn a_real_vendor_and_a_map_exclude_each_other() {
        let map = ["--upstream-map", "api.openai.com=127.0.0.1:1", CA[0], CA[1]];
        assert!(parsed(&[&["--real-vendor", "openai"], map.as_slice()].concat()).is_err());
        assert!(parsed(&["--real-vendor", "azure"]).is_err());
        assert!(parsed(&["--attest"]).is_err());
        let arguments = parsed(&["--real-vendor", "deepseek", "--attest"]).unwrap();
        assert!(matches!(arguments.upstream(), Ok(Upstream::Real { vendor: RealVendor::Deepseek, attested: true })));
    }

    #[test]
    fn one_host_leads_to_one_place() {
        let one = ["--upstream-map", "api.openai.com=127.0.0.1:1"];
        let other = ["--upstream-map", "API.openai.com=127.0.0.1:2"];

        let arguments = parsed(&[one, other, CA].concat()).unwrap();

        assert_eq!(arguments.upstream().unwrap_err().code(), ErrorCode::UsageInvalid);
    }

    #[test]
    fn without_flags_the_sample_vendor_answers() {
        assert!(matches!(parsed(&[]).unwrap().upstream(), Ok(Upstream::Sample)));
    }

    fn parsed(words: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from([&["keyhaven-demo"], words].concat())
    }
}
