//! Connections.

use std::time::Duration;

use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Proxy};

use crate::is_loopback;

/// Time limits of an [`agent`], and how many connections it keeps.
///
/// ```
/// let connections = rlaif_http::Connections {
///     whole: Some(std::time::Duration::from_secs(60)),
///     ..rlaif_http::Connections::new("my-program/1.0")
/// };
/// let agent = rlaif_http::agent("localhost", connections);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// The `User-Agent` of requests.
    pub user_agent: &'static str,
    /// Until a connection is established.
    pub connect: Duration,
    /// Until a reply has come in whole; none for downloads.
    pub whole: Option<Duration>,
    /// Without a byte read or written.
    pub silence: Option<Duration>,
    /// Connections kept open, to one host and in all; ureq's few by default.
    pub kept: Option<usize>,
}

impl Connections {
    /// Ten seconds to connect, and no other limit.
    pub fn new(user_agent: &'static str) -> Self {
        let connect = Duration::from_secs(10);
        Self { user_agent, connect, whole: None, silence: None, kept: None }
    }
}

/// An agent for requests to `host`: TLS by the roots of the system, the proxy of the environment
/// except to this machine, no redirects, and replies of any status as replies.
///
/// Redirects are not followed because they might carry a key to another host.
///
/// ```
/// let agent = rlaif_http::agent("localhost", rlaif_http::Connections::new("my-program/1.0"));
/// assert!(agent.config().proxy().is_none());
/// ```
pub fn agent(host: &str, connections: Connections) -> Agent {
    let Connections { user_agent, connect, whole, silence, kept } = connections;
    // A server on this machine is not reached through a proxy elsewhere.
    let proxy = if is_loopback(host) { None } else { Proxy::try_from_env() };
    let mut config = Agent::config_builder()
        .proxy(proxy)
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(connect))
        .timeout_global(whole)
        .timeout_per_read(silence)
        .timeout_per_write(silence)
        .user_agent(user_agent);
    if let Some(kept) = kept {
        config = config.max_idle_connections(kept).max_idle_connections_per_host(kept);
    }
    config.build().new_agent()
}
