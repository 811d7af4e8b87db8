//! One HTTP request, and what came of it.

use std::time::{Duration, SystemTime};

use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use super::config::LimitsConfig;
use crate::ProviderError;

/// No verdict is longer; a server that sends more is not one.
const LONGEST_REPLY: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Http(Agent);

/// Headers by name, in lower case.
pub(super) type Headers = Vec<(&'static str, String)>;

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// How long the server asks to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// Amazon's name of an error.
    pub(super) error_type: Option<String>,
    pub(super) body: Vec<u8>,
}

/// No whole reply came.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) why: String,
}

impl Http {
    pub(super) fn new(limits: &LimitsConfig) -> Self {
        let seconds = |s: f64| Some(Duration::from_secs_f64(s));
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // A redirect might carry the key to another host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(seconds(limits.timeout_s))
            .timeout_connect(seconds(limits.connect_timeout_s))
            .max_idle_connections(limits.concurrency)
            .max_idle_connections_per_host(limits.concurrency)
            .user_agent(concat!("rlaif/", env!("CARGO_PKG_VERSION")))
            .build();
        Self(Agent::new_with_config(config))
    }

    pub(super) fn post(&self, url: &str, headers: &Headers, body: &[u8]) -> Result<Reply, Lost> {
        let mut request = self.0.post(url).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let lost = |error: ureq::Error| Lost { why: described(&error) };
        let mut response = request.send(body).map_err(lost)?;
        let header = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let retry_after =
            retry_after(header("retry-after-ms"), header("retry-after"), SystemTime::now());
        // "ThrottlingException:http://internal.amazon.com/...": the name is what counts.
        let error_type = header("x-amzn-errortype");
        let error_type = error_type.and_then(|t| t.split(':').next().map(str::to_owned));
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(LONGEST_REPLY).read_to_vec();
        Ok(Reply { status, retry_after, error_type, body: body.map_err(lost)? })
    }
}

fn described(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("timed out ({error})"),
        ureq::Error::Io(source) => format!("the connection broke ({source})"),
        other => other.to_string(),
    }
}

/// `Retry-After`: milliseconds (OpenAI's own header), seconds, or a date, which is compared with
/// `now`.
fn retry_after(
    milliseconds: Option<String>,
    after: Option<String>,
    now: SystemTime,
) -> Option<Duration> {
    let number = |text: String| text.trim().parse().ok().filter(|n: &f64| (0. ..1e9).contains(n));
    if let Some(ms) = milliseconds.and_then(number) {
        return Some(Duration::from_secs_f64(ms / 1e3));
    }
    let after = after?;
    if let Some(seconds) = number(after.clone()) {
        return Some(Duration::from_secs_f64(seconds));
    }
    let date = httpdate::parse_http_date(after.trim()).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// An address: scheme, host with port, path without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) origin: String,
    pub(super) host: String,
    pub(super) path: String,
}

impl Address {
    pub(super) fn parse(setting: &'static str, url: &str) -> Result<Self, ProviderError> {
        let refused = |found: &str| ProviderError::Setting {
            setting,
            expected:
                "an address such as `https://host` or `http://host:port/path`, without user, \
                       password, query or fragment"
                    .to_owned(),
            found: found.to_owned(),
        };
        let Some((scheme, rest)) = url.split_once("://") else { return Err(refused(url)) };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if host.contains('@') || url.contains(['?', '#']) {
            return Err(refused("one with a user, a query or a fragment, which may hold a key"));
        }
        let sane = |c: char| c.is_ascii_graphic();
        if !["http", "https"].contains(&scheme) || host.is_empty() || !url.chars().all(sane) {
            return Err(refused(url));
        }
        Ok(Self {
            origin: format!("{scheme}://{host}"),
            host: host.to_owned(),
            path: path.trim_end_matches('/').to_owned(),
        })
    }

    pub(super) fn join(&self, path: &str) -> String {
        format!("{}{}{path}", self.origin, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_retry_after_is_understood() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let after = |ms: Option<&str>, s: Option<&str>| {
            retry_after(ms.map(str::to_owned), s.map(str::to_owned), now)
        };
        assert_eq!(after(None, Some("2")), Some(Duration::from_secs(2)));
        assert_eq!(after(Some("150"), Some("2")), Some(Duration::from_millis(150)));
        assert_eq!(after(None, Some("-1")), None);
        assert_eq!(after(None, Some("soon")), None);
        assert_eq!(after(None, Some("Wed, 21 Oct 2015 07:28:00 GMT")), Some(Duration::ZERO));
        let date = httpdate::fmt_http_date(now + Duration::from_secs(30));
        assert_eq!(after(None, Some(&date)), Some(Duration::from_secs(30)));
    }

    #[test]
    fn an_address_with_a_password_is_refused_and_not_repeated() {
        let error = Address::parse("base_url", "https://me:hunter2@host/v1").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(Address::parse("base_url", "https://host?key=hunter2").is_err());
        assert!(Address::parse("base_url", "host:80").is_err());
        assert!(Address::parse("base_url", "ftp://host").is_err());
        assert_eq!(
            Address::parse("base_url", "http://h:80/v1/").unwrap().join("/chat"),
            "http://h:80/v1/chat"
        );
    }
}
