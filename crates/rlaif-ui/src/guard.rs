//! Checks of every request: its host, its origin, and the headers of the response.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::error::Refusal;

/// The page loads its own script and style alone, and talks to its own server alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The names by which a browser may ask for this server.
#[derive(Debug, Clone)]
pub(crate) struct Hosts(Vec<String>);

impl Hosts {
    /// Loopback addresses have their names; another address is the only name of its server.
    pub(crate) fn of(address: SocketAddr) -> Self {
        let port = address.port();
        let mut names = vec![address.to_string()];
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            names.extend(["localhost", "127.0.0.1", "[::1]"].map(|name| format!("{name}:{port}")));
        }
        Self(names)
    }

    /// `true` if requests name this server. A page of another site that has resolved its own name to this
    /// address (DNS rebinding) names that site.
    fn knows(&self, host: &str, address: IpAddr) -> bool {
        let is_address = || {
            let ip = host.rsplit_once(':').map_or(host, |(ip, _)| ip);
            ip.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        };
        // Bound to all addresses, the server is asked for by any of them, but by no name.
        self.0.iter().any(|known| known.eq_ignore_ascii_case(host))
            || (address.is_unspecified() && is_address())
    }
}

/// The hosts, and the address that the server listens on.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    pub(crate) hosts: Hosts,
    pub(crate) address: SocketAddr,
}

/// Refuses requests of other sites, and adds the headers that keep the page to itself.
pub(crate) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = match guard.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    response
}

impl Guard {
    fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let text = |value: Option<&HeaderValue>| {
            value.and_then(|value| value.to_str().ok().map(str::to_owned))
        };
        let host = text(headers.get(HOST)).unwrap_or_default();
        if !self.hosts.knows(&host, self.address.ip()) {
            let reason =
                format!("`Host` should name this server, but is `{}`", host.escape_debug());
            return Err(Refusal::new(StatusCode::FORBIDDEN, reason));
        }
        if let Some(origin) = headers.get(ORIGIN) {
            let origin = text(Some(origin)).unwrap_or_default();
            if origin != format!("http://{host}") {
                let reason = format!("requests of `{}` are refused", origin.escape_debug());
                return Err(Refusal::new(StatusCode::FORBIDDEN, reason));
            }
        }
        match text(headers.get("sec-fetch-site")).as_deref() {
            None | Some("same-origin" | "none") => Ok(()),
            Some(_) => {
                Err(Refusal::new(StatusCode::FORBIDDEN, "requests of other sites are refused"))
            }
        }
    }
}
