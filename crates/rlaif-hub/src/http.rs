//! Requests to a hub: retried, redirected, and explained.
//!
//! hf-hub 0.5 can send these requests too, but it reports a failure without the headers that
//! explain it (`X-Error-Code`), sends the access token on to the storage host when it asks for a
//! file's size, appends a whole file to a partial one when a server ignores `Range`, and ignores
//! `Retry-After`. So this module uses the same ureq directly.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rlaif_http::{Connections, Retry, retry_after, shown};
use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, LOCATION, RANGE};
use ureq::http::uri::{Authority, Scheme};
use ureq::http::{HeaderMap, Response, StatusCode, Uri};
use ureq::{Agent, Body};

use crate::error::HubError;
use crate::kind::RepoKind;
use crate::progress::{DownloadProgress, Event};
use crate::token::Token;

/// The subject of a request, for error messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) kind: RepoKind,
    pub(crate) repo: &'a str,
    pub(crate) revision: &'a str,
    /// `None` for the listing.
    pub(crate) file: Option<&'a str>,
}

/// The redirects to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Redirects {
    /// All.
    All,
    /// Redirects of renamed repositories, but not the one to the storage of a large file: its response
    /// carries the file's metadata.
    UpToStorage,
}

/// The number of retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// According to [`Retry`].
    Normal,
    /// Retries only if the server answered: there is a cache to fall back to.
    OnlyIfReachable,
}

/// A client of the hub's protocol.
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<Token>,
    pub(crate) retry: Retry,
    pub(crate) progress: Arc<dyn DownloadProgress>,
}

/// A host that a token may be sent to.
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
        progress: Arc<dyn DownloadProgress>,
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
        let silence = Some(Duration::from_secs(30));
        let user_agent = concat!("rlaif-hub/", env!("CARGO_PKG_VERSION"));
        let connections = Connections { silence, ..Connections::new(user_agent) };
        let agent = rlaif_http::agent(origin.authority.host(), connections);
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

    /// A file's content from byte `from` on, or all of it if the server ignores ranges.
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
        let mut repeats = self.retry.patience();
        loop {
            let answer = self.follow(request);
            let attempts = repeats.attempts();
            let (reason, asked) = match &answer {
                Ok((response, _)) if is_transient(response.status()) => {
                    let asked = retry_after(response.headers(), SystemTime::now());
                    (response.status().to_string(), asked)
                }
                Err(Broken::Connection(_, source)) => (source.to_string(), None),
                Ok(_) | Err(Broken::Protocol(..)) => {
                    return self.conclude(answer, attempts, subject);
                }
            };
            let worthwhile = answer.is_ok() || patience == Patience::Normal;
            let pause = if worthwhile { repeats.pause(asked).ok() } else { None };
            let Some(pause) = pause else {
                return self.conclude(answer, attempts, subject);
            };
            self.notice(&format!(
                "{}: {reason}; trying again in {:.1} s",
                subject.file.unwrap_or(subject.repo),
                pause.as_secs_f64()
            ));
            std::thread::sleep(pause);
        }
    }

    /// The result of the last attempt.
    fn conclude(
        &self,
        answer: Result<(Response<Body>, Uri), Broken>,
        attempts: usize,
        subject: Subject<'_>,
    ) -> Result<Response<Body>, HubError> {
        match answer {
            Ok((response, uri)) => self.explain(response, &uri, subject),
            Err(Broken::Connection(uri, source)) => {
                Err(HubError::Network { url: shown(&uri), attempts, source })
            }
            Err(Broken::Protocol(uri, what)) => Err(HubError::Protocol { url: shown(&uri), what }),
        }
    }

    /// Sends a request and follows its redirects.
    fn follow(&self, request: Request<'_>) -> Result<(Response<Body>, Uri), Broken> {
        const MOST_REDIRECTS: usize = 10;
        let Ok(mut uri) = request.url.parse::<Uri>() else {
            return Err(Broken::Protocol(Uri::default(), "its address cannot be parsed"));
        };
        for _ in 0..=MOST_REDIRECTS {
            let mut call = if request.head { self.agent.head(&uri) } else { self.agent.get(&uri) }
                // A compressed answer would have another length than the file.
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

    /// Returns an expected response, and turns any other into an error with a remedy.
    fn explain(
        &self,
        mut response: Response<Body>,
        uri: &Uri,
        subject: Subject<'_>,
    ) -> Result<Response<Body>, HubError> {
        let status = response.status();
        // 416: the range begins at the file's end. The transfer interprets it.
        if status.is_success() || is_redirect(status) || status == StatusCode::RANGE_NOT_SATISFIABLE
        {
            return Ok(response);
        }
        let code = text_header(response.headers(), "x-error-code");
        let wait_s = retry_after(response.headers(), SystemTime::now()).map(|wait| wait.as_secs());
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
            (429, _) => HubError::RateLimited { endpoint, wait_s },
            (status, _) => HubError::Status { url: shown(uri), status, message },
        })
    }

    /// The server's error message: one line, short, printable, without the token.
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

pub(crate) fn text_header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// The full address of a `Location`: absolute, without scheme, or without host. Hubs do not use
/// relative paths, which are refused.
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

#[cfg(test)]
mod tests {
    use super::*;

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
