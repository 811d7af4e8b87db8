//! Errors between a repository and the local disk, each with its remedy.

use std::path::PathBuf;

use rlaif_core::Fault;

/// Errors of fetching a file of a repository.
///
/// No message contains a token, or the query string of a URL (presigned addresses carry
/// signatures).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The repository's name is not a valid id.
    #[error(
        "`{id}` is neither a folder on this disk nor a repository id: write `name` or `org/name` \
         with letters, digits, `-`, `_` and `.` ({reason})"
    )]
    InvalidRepoId {
        /// The given id.
        id: String,
        /// The broken rule.
        reason: &'static str,
    },
    /// The revision is not a branch, a tag or a commit hash.
    #[error("`{revision}` is not a revision of `{repo}`: give a branch, a tag or a commit hash")]
    InvalidRevision {
        /// The repository.
        repo: String,
        /// The given revision.
        revision: String,
    },
    /// A local folder has no revisions.
    #[error(
        "`{folder}` is a folder on this disk and has no revision `{revision}`: leave the revision \
         out, or give a repository id"
    )]
    FolderHasNoRevisions {
        /// The folder.
        folder: PathBuf,
        /// The requested revision.
        revision: String,
    },
    /// The file name points outside the repository.
    #[error(
        "`{file}` is not a file name inside `{repo}`: give a relative path with `/` between \
         folders and no `..`"
    )]
    InvalidFileName {
        /// The repository.
        repo: String,
        /// The name that was given, or that the server listed.
        file: String,
    },
    /// The endpoint is not a valid address.
    #[error(
        "the hub's endpoint `{endpoint}` is not an http(s) address: correct HF_ENDPOINT, for \
         example `https://huggingface.co`"
    )]
    InvalidEndpoint {
        /// The given endpoint, without credentials.
        endpoint: String,
    },
    /// The token cannot be sent.
    #[error(
        "the access token from {origin} has characters that do not occur in tokens (perhaps a \
         line break or a quote): copy it again from the hub's settings page"
    )]
    InvalidToken {
        /// The origin of the token: a variable, a file, or the program.
        origin: String,
    },
    /// There is no folder for the cache.
    #[error("no cache folder: give one, or set HF_HUB_CACHE, HF_HOME or HOME")]
    NoCacheFolder,
    /// The repository is gated, and this account has no access yet.
    #[error("`{repo}` is gated: {advice} (its page: {page})")]
    Gated {
        /// The repository.
        repo: String,
        /// The page on which to request access.
        page: String,
        /// The remedy, which depends on whether a token was sent.
        advice: &'static str,
    },
    /// The hub rejected the token.
    #[error(
        "{endpoint} rejected the access token from {origin}: it has expired or was revoked; create \
         a new one, or unset it if the repository is public"
    )]
    BadToken {
        /// The hub.
        endpoint: String,
        /// The origin of the token: a variable, a file, or the program.
        origin: String,
    },
    /// The token lacks permission.
    #[error(
        "{endpoint} forbids access to `{repo}`{}: use a token with read access to this repository",
        detail(.message.as_deref())
    )]
    Forbidden {
        /// The hub.
        endpoint: String,
        /// The repository.
        repo: String,
        /// The hub's message.
        message: Option<String>,
    },
    /// The hub shows no such repository to this account.
    #[error(
        "there is no {kind} `{repo}` at {endpoint}, or it is private: check the spelling and \
         whether it is a model or a dataset; {advice}"
    )]
    RepoNotFound {
        /// `model` or `dataset`.
        kind: &'static str,
        /// The repository.
        repo: String,
        /// The hub.
        endpoint: String,
        /// The remedy for a private repository, which depends on whether a token was sent.
        advice: &'static str,
    },
    /// The repository has no such branch, tag or commit.
    #[error(
        "`{repo}` has no revision `{revision}`: check the spelling of the branch or tag, or give \
         the whole 40-digit commit hash"
    )]
    RevisionNotFound {
        /// The repository.
        repo: String,
        /// The requested revision.
        revision: String,
    },
    /// The repository has no such file.
    #[error("`{repo}` at `{revision}` has no file `{file}`: it has {}", listed(.files))]
    FileNotFound {
        /// The repository or folder.
        repo: String,
        /// The requested revision, or `this disk` for a folder.
        revision: String,
        /// The requested file.
        file: String,
        /// The existing files, if known.
        files: Vec<String>,
    },
    /// The file is not on this disk, and the hub cannot be asked: it is unreachable, or offline
    /// mode is on.
    #[error(
        "{} of `{repo}` at `{revision}` is {}in the cache {}, and the hub is unreachable or \
         HF_HUB_OFFLINE is set: run once with a connection, or copy the cache from a machine that \
         has it",
        .file.as_deref().map_or("no file".to_owned(), |file| format!("`{file}`")), if .file.is_some() { "not " } else { "" }, .cache.display()
    )]
    NotCached {
        /// The repository.
        repo: String,
        /// The requested revision.
        revision: String,
        /// The requested file; `None` if the repository as a whole is unknown.
        file: Option<String>,
        /// The cache that was searched.
        cache: PathBuf,
    },
    /// Too many requests, even after retries, or the hub requests a longer pause than the client
    /// makes.
    #[error(
        "{endpoint} limits the rate of requests: try again {}; requests with an access token \
         (HF_TOKEN) have a higher limit",
        .wait_s.map_or("later".to_owned(), |wait| format!("in {wait} s"))
    )]
    RateLimited {
        /// The hub.
        endpoint: String,
        /// The pause that the hub requests, in seconds, if it states one.
        wait_s: Option<u64>,
    },
    /// The hub answered with any other error.
    #[error("{url} answered {status}{}, also after retries where they could help", detail(.message.as_deref()))]
    Status {
        /// The address, without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The hub's message.
        message: Option<String>,
    },
    /// No connection, or a connection that broke repeatedly.
    #[error(
        "no connection to {url} after {attempts} attempts: check the network and HF_ENDPOINT, or \
         set HF_HUB_OFFLINE=1 to use the cache only"
    )]
    Network {
        /// The address, without its query.
        url: String,
        /// Number of attempts.
        attempts: usize,
        /// The error of the last attempt.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The transfer of a file broke repeatedly; the received part is kept, and the next run resumes
    /// it.
    #[error(
        "the transfer of `{file}` broke {attempts} times in a row after {received} of {expected} \
         bytes: run the command again to resume it"
    )]
    Interrupted {
        /// The file.
        file: String,
        /// Number of consecutive attempts without a byte.
        attempts: usize,
        /// Bytes on this disk.
        received: u64,
        /// Bytes of the whole file.
        expected: u64,
        /// The error of the last attempt; `None` if it merely ended early.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The received file differs from the hub's announcement. Nothing of it was kept.
    #[error(
        "`{file}` of `{repo}` arrived corrupted ({what} {expected} expected, {found} found) and \
         was deleted: try again, and look for a proxy that changes downloads if it happens again"
    )]
    Corrupted {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// The compared property: `SHA-256` or `size in bytes`.
        what: &'static str,
        /// The announced value.
        expected: String,
        /// The received value.
        found: String,
    },
    /// The server does not speak the hub's protocol.
    #[error("{url} does not answer as a hub does ({what}): check HF_ENDPOINT and proxies")]
    Protocol {
        /// The address, without its query.
        url: String,
        /// The missing or wrong part of the answer.
        what: &'static str,
    },
    /// The hub's listing is not the expected JSON.
    #[error("{url} does not list the repository as a hub does: check HF_ENDPOINT and proxies")]
    Listing {
        /// The address, without its query.
        url: String,
        /// The parser's error.
        #[source]
        source: serde_json::Error,
    },
    /// A file operation failed on this disk.
    #[error("could not {action} {}", .path.display())]
    Io {
        /// The failed action, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

impl HubError {
    /// Combines an operating system's error with the action and the path.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

impl Fault for HubError {
    fn is_users(&self) -> bool {
        match self {
            // Names.
            Self::InvalidRepoId { .. }
            | Self::InvalidRevision { .. }
            | Self::FolderHasNoRevisions { .. }
            | Self::InvalidFileName { .. }
            | Self::RepoNotFound { .. }
            | Self::RevisionNotFound { .. }
            | Self::FileNotFound { .. }
            // What the user set: the endpoint, the token, and the access of its account.
            | Self::InvalidEndpoint { .. }
            | Self::InvalidToken { .. }
            | Self::BadToken { .. }
            | Self::Gated { .. }
            | Self::Forbidden { .. } => true,
            // This machine and the network.
            Self::NoCacheFolder
            | Self::NotCached { .. }
            | Self::RateLimited { .. }
            | Self::Status { .. }
            | Self::Network { .. }
            | Self::Interrupted { .. }
            | Self::Corrupted { .. }
            | Self::Protocol { .. }
            | Self::Listing { .. }
            | Self::Io { .. } => false,
        }
    }
}

fn detail(message: Option<&str>) -> String {
    message.map(|text| format!(" ({text})")).unwrap_or_default()
}

fn listed(files: &[String]) -> String {
    const SHOWN: usize = 12;
    if files.is_empty() {
        return "no files that are known here".to_owned();
    }
    let mut text =
        files.iter().take(SHOWN).map(|f| format!("`{f}`")).collect::<Vec<_>>().join(", ");
    if files.len() > SHOWN {
        text.push_str(&format!(" and {} more", files.len() - SHOWN));
    }
    text
}
