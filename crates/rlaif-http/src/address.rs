//! Addresses: checked, and shown without what may be a key.

use std::net::IpAddr;

use ureq::http::Uri;
use ureq::http::uri::Authority;

/// An address of a service: scheme, host with port, path without a slash at its end.
///
/// ```
/// use rlaif_http::Address;
/// let address = Address::parse("http://host:80/v1/")?;
/// assert_eq!(address.join("/chat"), "http://host:80/v1/chat");
/// # Ok::<(), rlaif_http::BadAddress>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Scheme and host.
    pub origin: String,
    /// The host, with its port if it is given.
    pub host: String,
    /// The path, empty or with a slash at its beginning.
    pub path: String,
}

/// A text that is not the address of a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {EXPECTED}, found {found}")]
pub struct BadAddress {
    /// The text, or a description of one that may hold a key.
    pub found: String,
}

const EXPECTED: &str = "an address such as `https://host` or `http://host:port/path`, with a port from 1 \
                        to 65535, without user, password, query or fragment";

impl BadAddress {
    /// The form of an address that is one.
    pub const EXPECTED: &'static str = EXPECTED;
}

impl Address {
    /// Parses an address of `http` or `https`.
    ///
    /// # Errors
    /// [`BadAddress`] for any other text, and for one with a user, a query or a fragment, which it
    /// does not repeat.
    pub fn parse(url: &str) -> Result<Self, BadAddress> {
        let refused = |found: &str| BadAddress { found: found.to_owned() };
        let Some((scheme, rest)) = url.split_once("://") else { return Err(refused(url)) };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if host.contains('@') || url.contains(['?', '#']) {
            return Err(refused("one with a user, a query or a fragment, which may hold a key"));
        }
        let sane = |c: char| c.is_ascii_graphic();
        let is_host = has_port_in_range(host) && host.parse::<Authority>().is_ok();
        if !["http", "https"].contains(&scheme) || !is_host || !url.chars().all(sane) {
            return Err(refused(url));
        }
        Ok(Self {
            origin: format!("{scheme}://{host}"),
            host: host.to_owned(),
            path: path.trim_end_matches('/').to_owned(),
        })
    }

    /// The address with `path`, which begins with a slash, after its own.
    pub fn join(&self, path: &str) -> String {
        format!("{}{}{path}", self.origin, self.path)
    }
}

/// Returns true for a host without a port, or with one from 1 to 65535.
fn has_port_in_range(host: &str) -> bool {
    // The colons of an IPv6 address are in brackets.
    let behind_name = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    behind_name.split_once(':').is_none_or(|(_, port)| port.parse().is_ok_and(|port: u16| port > 0))
}

/// Returns true for a name or number of this machine, with or without a port.
///
/// ```
/// assert!(rlaif_http::is_loopback("127.0.0.1:8000"));
/// assert!(!rlaif_http::is_loopback("huggingface.co"));
/// ```
pub fn is_loopback(host: &str) -> bool {
    let host = match host.rsplit_once(':') {
        // The colons of an IPv6 address are in brackets.
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// An address for messages: no credentials and no query, where signatures are.
///
/// ```
/// let uri = "https://me:secret@host/file?Signature=secret".parse()?;
/// assert_eq!(rlaif_http::shown(&uri), "https://host/file");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn shown(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", Authority::as_str);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{}://{host}{}", uri.scheme_str().unwrap_or("http"), uri.path())
}

/// An address for messages, as [`shown`], of a text.
///
/// ```
/// assert_eq!(rlaif_http::shown_url("https://me:secret@host/file?key=secret"), "https://host/file");
/// ```
pub fn shown_url(url: &str) -> String {
    let url = url.split('?').next().unwrap_or(url);
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.find('/').unwrap_or(rest.len());
            let start = rest[..host].rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[start..])
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_password_is_refused_and_not_repeated() {
        let error = Address::parse("https://me:hunter2@host/v1").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(Address::parse("https://host?key=hunter2").is_err());
        assert!(Address::parse("host:80").is_err());
        assert!(Address::parse("ftp://host").is_err());
        for port in ["99999", "65536", "0", "-1", "", "http", "80:80"] {
            let error = Address::parse(&format!("http://host:{port}/v1")).unwrap_err();
            assert!(error.to_string().contains("a port from 1 to 65535"), "{error}");
        }
        for host in ["[::1]", "[::1]:80", "h:65535", "127.0.0.1:1"] {
            assert!(Address::parse(&format!("http://{host}/v1")).is_ok(), "{host}");
        }
        assert_eq!(Address::parse("http://h:80/v1/").unwrap().join("/chat"), "http://h:80/v1/chat");
    }

    #[test]
    fn shown_addresses_hold_no_secrets() {
        let uri: Uri = "https://user:secret@cdn.test:8/f?Signature=secret".parse().unwrap();
        assert_eq!(shown(&uri), "https://cdn.test:8/f");
    }

    #[test]
    fn addresses_of_any_text_are_shown_without_keys() {
        for (url, said) in [
            ("http://h:9/v1/chat?key=k", "http://h:9/v1/chat"),
            ("https://me:k@h/v1", "https://h/v1"),
            ("https://h/a@b", "https://h/a@b"),
            ("http://h", "http://h"),
        ] {
            assert_eq!(shown_url(url), said);
        }
    }

    #[test]
    fn loopback_is_told_from_elsewhere() {
        for host in ["127.0.0.1", "127.1.2.3", "localhost", "[::1]", "localhost:80", "[::1]:80"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["huggingface.co", "10.0.0.1", "[2001:db8::1]", "localhost.test"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
