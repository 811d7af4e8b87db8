//! One request, and what came of it.

use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use crate::shown_url;

/// The longest reply that is read; a service that sends more to one request is not the one meant.
const LONGEST_REPLY: u64 = 16 << 20;

/// A reply of any status, in whole.
#[derive(Debug)]
pub struct HttpReply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, without a byte-order mark; of at most 16 MiB by default.
    pub body: Vec<u8>,
}

/// No whole reply came.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Lost {
    /// The failure, in words; it may repeat the address, never a header.
    pub why: String,
}

/// Posts a JSON body and reads the whole reply.
///
/// # Errors
/// [`Lost`] when there is no connection, it breaks, or a time limit of the agent is over.
///
/// ```no_run
/// # use rlaif_http::{Connections, HttpReply, agent, post};
/// let agent = agent("localhost", Connections::new("my-program/1.0"));
/// let HttpReply { status, body, .. } = post(&agent, "http://localhost:8000/f", &[], b"{}")?;
/// # Ok::<(), rlaif_http::Lost>(())
/// ```
pub fn post(
    agent: &Agent,
    url: &str,
    headers: &[(&str, String)],
    body: &[u8],
) -> Result<HttpReply, Lost> {
    post_for(agent, url, headers, body, LONGEST_REPLY)
}

/// As [`post`], for a reply of at most `longest` bytes.
///
/// # Errors
/// As [`post`]; [`Lost`] for a longer reply.
pub fn post_for(
    agent: &Agent,
    url: &str,
    headers: &[(&str, String)],
    body: &[u8],
    longest: u64,
) -> Result<HttpReply, Lost> {
    let mut request = agent.post(url).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    received(url, request.send(body), longest)
}

/// Asks for a resource and reads the whole reply.
///
/// # Errors
/// As [`post`].
pub fn get(agent: &Agent, url: &str, headers: &[(&str, String)]) -> Result<HttpReply, Lost> {
    let mut request = agent.get(url);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    received(url, request.call(), LONGEST_REPLY)
}

/// Reads the body of a reply.
fn received(
    url: &str,
    reply: Result<Response<Body>, ureq::Error>,
    longest: u64,
) -> Result<HttpReply, Lost> {
    let lost =
        |error: ureq::Error| Lost { why: format!("{}: {}", shown_url(url), described(&error)) };
    let (parts, body) = reply.map_err(lost)?.into_parts();
    let mut body = body.into_with_config().limit(longest).read_to_vec().map_err(lost)?;
    const MARK: &[u8] = "\u{feff}".as_bytes();
    if body.starts_with(MARK) {
        body.drain(..MARK.len());
    }
    Ok(HttpReply { status: parts.status.as_u16(), headers: parts.headers, body })
}

fn described(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("timed out ({error})"),
        ureq::Error::Io(source) => format!("the connection broke ({source})"),
        other => other.to_string(),
    }
}
