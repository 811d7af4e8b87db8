//! Requests to a hub: retried, redirected, and explained.
//!
//! hf-hub 0.5 can send them too, but reports a failure without the headers that say why
//! (`X-Error-Code`), sends the access token on to the storage host when it asks for a file's
//! size, appends a whole file to a partial one when a server ignores `Range`, and pays no heed to
//! `Retry-After`. So this module speaks through the same ureq itself.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use backon::BackoffBuilder;
use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, LOCATION, RANGE, RETRY_AFTER};
use ureq::http::uri::{Authority, Scheme};
use ureq::http::{HeaderMap, Response, StatusCode, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::RepoKind;
use crate::error::HubError;
use crate::progress::{Event, Progress};
use crate::token::Token;

/// How failures that may pass are met: no connection, 408, 429 and 5xx.
///
/// Pauses double from `first_pause`, with jitter, and are never shorter than a `Retry-After` of
/// the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts after the first one. A transfer that brings bytes starts counting anew.
    pub retries: usize,
    /// Pause before the first of them.
    pub first_pause: Duration,
    /// No pause is longer; a server that asks for a longer one is an error.
    pub longest_pause: Duration,
}

impl Default for Retry {
    /// Five retries, from half a second on, and never more than two minutes.
    fn default() -> Self {
        Self {
            retries: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_mins(2),
        }
    }
}

impl Retry {
    pub(crate) fn pauses(self) -> impl Iterator<Item = Duration> {
        backon::ExponentialBuilder::default()
            .with_min_delay(self.first_pause)
            .with_max_delay(self.longest_pause)
            .with_max_times(self.retries)
            .with_jitter()
            .build()
    }
}

/// What a request is about, for the sentence that explains its failure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) kind: RepoKind,
    pub(crate) repo: &'a str,
    pub(crate) revision: &'a str,
    /// `None` for the listing.
    pub(crate) file: Option<&'a str>,
}

/// Which redirects are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Redirects {
    /// All.
    All,
    /// Those of renamed repositories, but not the one to where a large file is stored: its
    /// response carries the file's metadata.
    UpToStorage,
}

/// How long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As [`Retry`] says.
    Normal,
    /// Retries only where the server answered: there is a cache to fall back to.
    OnlyIfReachable,
}

/// The hub's side of the conversation.
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<Token>,
    pub(crate) retry: Retry,
    pub(crate) progress: Arc<dyn Progress>,
}

/// What a token may be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: Scheme,
    authority: Authority,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        Some(Self { scheme: uri.scheme()?.clone(), authority: uri.authority()?.clone() })
    }
}

impl Client {
    pub(crate) fn new(
        endpoint: &str,
        token: Option<Token>,
        retry: Retry,
        progress: Arc<dyn Progress>,
    ) -> Result<Self, HubError> {
        let endpoint = endpoint.trim().trim_end_matches('/');
        let invalid = || HubError::InvalidEndpoint {
            endpoint: endpoint.rsplit_once('@').map_or(endpoint, |(_, host)| host).to_owned(),
        };
        let uri: Uri = endpoint.parse().map_err(|_| invalid())?;
        let origin = Origin::of(&uri)
            .filter(|o| o.scheme == Scheme::HTTP || o.scheme == Scheme::HTTPS)
            .filter(|o| !o.authority.host().is_empty() && !o.authority.as_str().contains('@'))
            .filter(|_| uri.query().is_none())
            .ok_or_else(invalid)?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_per_read(Some(Duration::from_secs(30)))
            .timeout_per_write(Some(Duration::from_secs(30)))
            .user_agent(concat!("rlaif-hub/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
            .build()
            .new_agent();
        Ok(Self { agent, endpoint: endpoint.to_owned(), origin, token, retry, progress })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Headers of a file, without its content.
    pub(crate) fn head(&self, url: &str, subject: Subject<'_>) -> Result<HeaderMap, HubError> {
        let request = Request { head: true, url, from: 0, redirects: Redirects::UpToStorage };
        let response = self.send(request, Patience::Normal, subject)?;
        Ok(response.into_parts().0.headers)
    }

    /// A file's content from byte `from` on, or all of it where the server knows no ranges.
    pub(crate) fn get(
        &self,
        url: &str,
        from: u64,
        patience: Patience,
        subject: Subject<'_>,
    ) -> Result<Response<Body>, HubError> {
        self.send(Request { head: false, url, from, redirects: Redirects::All }, patience, subject)
    }

    fn send(
        &self,
        request: Request<'_>,
        patience: Patience,
        subject: Subject<'_>,
    ) -> Result<Response<Body>, HubError> {
        let mut pauses = self.retry.pauses();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (why, asked) = match self.follow(request) {
                Ok((response, uri)) if !is_transient(response.status()) => {
                    return self.explain(response, &uri, subject);
                }
                Ok((response, uri)) => {
                    let asked = retry_after(response.headers(), SystemTime::now());
                    if let Some(wait) = asked.filter(|wait| *wait > self.retry.longest_pause) {
                        if response.status() == StatusCode::TOO_MANY_REQUESTS {
                            let endpoint = self.endpoint.clone();
                            return Err(HubError::RateLimited { endpoint, wait_s: wait.as_secs() });
                        }
                        return self.explain(response, &uri, subject);
                    }
                    (Err((response, uri)), asked)
                }
                Err(Broken::Protocol(uri, what)) => {
                    return Err(HubError::Protocol { url: shown(&uri), what });
                }
                Err(Broken::Connection(uri, source)) => (Ok((uri, source)), None),
            };
            let reachable = why.is_err() || patience == Patience::Normal;
            let Some(pause) = pauses.next().filter(|_| reachable) else {
                return match why {
                    Ok((uri, source)) => {
                        Err(HubError::Network { url: shown(&uri), attempts, source })
                    }
                    Err((response, uri)) => self.explain(response, &uri, subject),
                };
            };
            let pause = pause.max(asked.unwrap_or_default()).min(self.retry.longest_pause);
            let reason = match &why {
                Ok((_, source)) => source.to_string(),
                Err((response, _)) => response.status().to_string(),
            };
            self.notice(&format!(
                "{}: {reason}; trying again in {:.1} s",
                subject.file.unwrap_or(subject.repo),
                pause.as_secs_f64()
            ));
            std::thread::sleep(pause);
        }
    }

    /// One request and the redirects after it.
    fn follow(&self, request: Request<'_>) -> Result<(Response<Body>, Uri), Broken> {
        const MOST_REDIRECTS: usize = 10;
        let Ok(mut uri) = request.url.parse::<Uri>() else {
            return Err(Broken::Protocol(Uri::default(), "its address cannot be parsed"));
        };
        for _ in 0..=MOST_REDIRECTS {
            let mut call = if request.head { self.agent.head(&uri) } else { self.agent.get(&uri) }
                // A compressed answer has another length than the file.
                .header(ACCEPT_ENCODING, "identity");
            if request.from > 0 {
                call = call.header(RANGE, format!("bytes={}-", request.from));
            }
            if let Some(token) = &self.token
                && Origin::of(&uri).as_ref() == Some(&self.origin)
            {
                call = call.header(AUTHORIZATION, token.header());
            }
            let response = match call.call() {
                Ok(response) => response,
                Err(source) => return Err(Broken::Connection(uri, Box::new(source))),
            };
            let to_storage = response.headers().contains_key("x-linked-etag");
            if !is_redirect(response.status())
                || (request.redirects == Redirects::UpToStorage && to_storage)
            {
                return Ok((response, uri));
            }
            let next = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            uri = match next.and_then(|to| join(&uri, to)) {
                Some(next) => next,
                None => return Err(Broken::Protocol(uri, "a redirect that leads nowhere")),
            };
        }
        Err(Broken::Protocol(uri, "more than ten redirects"))
    }

    /// The response if it is one that was asked for, else what is wrong and what to do.
    fn explain(
        &self,
        mut response: Response<Body>,
        uri: &Uri,
        subject: Subject<'_>,
    ) -> Result<Response<Body>, HubError> {
        let status = response.status();
        // 416: the range begins at the file's end. What that means the transfer knows.
        if status.is_success() || is_redirect(status) || status == StatusCode::RANGE_NOT_SATISFIABLE
        {
            return Ok(response);
        }
        let code = text_header(response.headers(), "x-error-code");
        let message = self.message(&mut response);
        let repo = subject.repo.to_owned();
        let endpoint = self.endpoint.clone();
        let of_hub = Origin::of(uri).as_ref() == Some(&self.origin);
        Err(match (status.as_u16(), code.as_deref()) {
            (_, Some("RevisionNotFound")) => {
                HubError::RevisionNotFound { repo, revision: subject.revision.to_owned() }
            }
            (_, Some("EntryNotFound")) => HubError::FileNotFound {
                repo,
                revision: subject.revision.to_owned(),
                file: subject.file.unwrap_or_default().to_owned(),
                files: Vec::new(),
            },
            (_, Some("GatedRepo")) => HubError::Gated {
                page: format!("{endpoint}/{}", subject.kind.path(subject.repo)),
                repo,
                advice: if self.token.is_some() {
                    "the account of this access token has no access yet; ask for it on the \
                     repository's page and wait until it is granted"
                } else {
                    "accept its conditions on the repository's page, create an access token that \
                     may read it, and set HF_TOKEN to it"
                },
            },
            (401, _)
                if self.token.is_some()
                    && message.as_deref().is_some_and(|m| m.contains("Invalid credentials")) =>
            {
                let origin = self.token.as_ref().map(|t| t.origin().to_owned()).unwrap_or_default();
                HubError::BadToken { endpoint, origin }
            }
            // The hub hides private repositories, and answers 401 for ones that do not exist.
            (401, _) | (_, Some("RepoNotFound")) if of_hub => HubError::RepoNotFound {
                kind: subject.kind.name(),
                repo,
                endpoint,
                advice: if self.token.is_some() {
                    "the account of this access token cannot see it"
                } else {
                    "no access token was sent, and a private repository needs one (HF_TOKEN)"
                },
            },
            (403, _) if of_hub => HubError::Forbidden { endpoint, repo, message },
            (status, _) => HubError::Status { url: shown(uri), status, message },
        })
    }

    /// What the server says went wrong: one line, short, printable, without the token.
    fn message(&self, response: &mut Response<Body>) -> Option<String> {
        const MOST_CHARS: usize = 300;
        let said = text_header(response.headers(), "x-error-message").or_else(|| {
            let mut body = Vec::new();
            response.body_mut().as_reader().take(16 << 10).read_to_end(&mut body).ok()?;
            let json: serde_json::Value = serde_json::from_slice(&body).ok()?;
            Some(json.get("error")?.as_str()?.to_owned())
        })?;
        let said = self.token.as_ref().map_or(said.clone(), |token| token.redact(&said));
        let line: String =
            said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_CHARS).collect();
        Some(line.trim().to_owned()).filter(|line| !line.is_empty())
    }

    pub(crate) fn notice(&self, text: &str) {
        self.progress.note(Event::Notice { text });
    }
}

#[derive(Clone, Copy)]
struct Request<'a> {
    head: bool,
    url: &'a str,
    from: u64,
    redirects: Redirects,
}

enum Broken {
    Connection(Uri, Box<ureq::Error>),
    Protocol(Uri, &'static str),
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// RFC 9110, section 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

pub(crate) fn text_header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// The address a `Location` means: whole, without scheme, or without host. Relative paths are
/// not used by hubs and are refused.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let joined = if location.starts_with("//") {
        format!("{}:{location}", base.scheme_str()?)
    } else if location.starts_with('/') {
        format!("{}://{}{location}", base.scheme_str()?, base.authority()?)
    } else {
        location.to_owned()
    };
    let uri: Uri = joined.parse().ok()?;
    matches!(uri.scheme_str(), Some("http" | "https")).then_some(uri)
}

/// An address for messages: no credentials and no query, where signatures are.
fn shown(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", Authority::as_str);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{}://{host}{}", uri.scheme_str().unwrap_or("http"), uri.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())])
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(retry_after(&headers("7"), now), Some(Duration::from_secs(7)));
        let date = headers("Sun, 06 Nov 1994 08:49:47 GMT");
        assert_eq!(retry_after(&date, now), Some(Duration::from_secs(10)));
        let past = headers("Sun, 06 Nov 1994 08:49:07 GMT");
        assert_eq!(retry_after(&past, now), Some(Duration::ZERO));
        assert_eq!(retry_after(&headers("soon"), now), None);
    }

    #[test]
    fn locations_join_as_browsers_join_them() {
        let base: Uri = "https://hub.test/a/resolve/main/f?x=1".parse().unwrap();
        let to = |location| join(&base, location).map(|uri| uri.to_string());
        assert_eq!(to("/b/resolve/main/f").as_deref(), Some("https://hub.test/b/resolve/main/f"));
        assert_eq!(to("//cdn.test/f").as_deref(), Some("https://cdn.test/f"));
        assert_eq!(to("http://cdn.test/f?sig=1").as_deref(), Some("http://cdn.test/f?sig=1"));
        assert_eq!(to("file:///etc/passwd"), None);
        assert_eq!(to("f"), None);
    }

    #[test]
    fn shown_addresses_hold_no_secrets() {
        let uri: Uri = "https://user:secret@cdn.test:8/f?Signature=secret".parse().unwrap();
        assert_eq!(shown(&uri), "https://cdn.test:8/f");
    }

    #[test]
    fn endpoints_are_checked() {
        let new = |endpoint: &str| {
            Client::new(endpoint, None, Retry::default(), Arc::new(crate::progress::Quiet))
                .map(|client| client.endpoint().to_owned())
        };
        assert_eq!(new("https://hub.test/mirror/").unwrap(), "https://hub.test/mirror");
        for bad in ["", "hub.test", "ftp://hub.test", "https://", "https://me:secret@hub.test"] {
            let error = new(bad).unwrap_err();
            assert!(matches!(error, HubError::InvalidEndpoint { .. }), "{bad}: {error}");
            assert!(!format!("{error:?}").contains("secret"));
        }
    }
}
