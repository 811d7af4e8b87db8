//! What can go wrong between a repository and this disk, each with what to do about it.

use std::path::PathBuf;

use rlaif_core::Fault;

/// Why a file of a repository could not be had.
///
/// No message holds a token, or the query string of a URL (presigned addresses carry signatures).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The repository's name is not one the hub could have.
    #[error(
        "`{id}` is neither a folder on this disk nor a repository id: write `name` or `org/name` \
         with letters, digits, `-`, `_` and `.` ({reason})"
    )]
    InvalidRepoId {
        /// What was given.
        id: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// The revision is not a branch, a tag or a commit hash.
    #[error("`{revision}` is no revision of `{repo}`: give a branch, a tag or a commit hash")]
    InvalidRevision {
        /// The repository.
        repo: String,
        /// What was given.
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
        /// The revision asked for.
        revision: String,
    },
    /// The file name would leave the repository.
    #[error(
        "`{file}` is no file name inside `{repo}`: give a relative path with `/` between folders \
         and no `..`"
    )]
    InvalidFileName {
        /// The repository.
        repo: String,
        /// What was given, or what the server listed.
        file: String,
    },
    /// The endpoint is not an address.
    #[error(
        "the hub's endpoint `{endpoint}` is no http(s) address: correct HF_ENDPOINT, for instance \
         `https://huggingface.co`"
    )]
    InvalidEndpoint {
        /// What was given, without credentials.
        endpoint: String,
    },
    /// The token cannot be sent.
    #[error(
        "the access token from {origin} has characters that no token has (a line break or a quote, \
         perhaps): copy it again from the hub's settings page"
    )]
    InvalidToken {
        /// Where the token came from: a variable, a file, or the program.
        origin: String,
    },
    /// There is nowhere to keep files.
    #[error(
        "no cache folder: give one, or set HF_HUB_CACHE, HF_HOME or HOME where the environment is read"
    )]
    NoCacheFolder,
    /// The repository is gated, and this account has no access yet.
    #[error("`{repo}` is gated: {advice} (its page: {page})")]
    Gated {
        /// The repository.
        repo: String,
        /// Where access is asked for.
        page: String,
        /// What to do, which depends on whether a token was sent.
        advice: &'static str,
    },
    /// The hub does not know the token.
    #[error(
        "{endpoint} rejected the access token from {origin}: it has expired or was revoked; create \
         a new one, or unset it if the repository is public"
    )]
    BadToken {
        /// The hub.
        endpoint: String,
        /// Where the token came from: a variable, a file, or the program.
        origin: String,
    },
    /// The token may not do this.
    #[error(
        "{endpoint} forbids access to `{repo}`{}: use a token with read access to this repository",
        detail(.message.as_deref())
    )]
    Forbidden {
        /// The hub.
        endpoint: String,
        /// The repository.
        repo: String,
        /// What the hub said.
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
        /// What to do if it is private, which depends on whether a token was sent.
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
        /// The revision asked for.
        revision: String,
    },
    /// The repository has no such file.
    #[error("`{repo}` at `{revision}` has no file `{file}`: it has {}", listed(.files))]
    FileNotFound {
        /// The repository or folder.
        repo: String,
        /// The revision asked for, or `this disk` for a folder.
        revision: String,
        /// The file asked for.
        file: String,
        /// What is there instead, as far as it is known.
        files: Vec<String>,
    },
    /// The file is not on this disk, and the hub cannot be asked: it is out of reach, or offline
    /// mode is on.
    #[error(
        "{} of `{repo}` at `{revision}` is {}in the cache {}, and the hub is out of reach or \
         HF_HUB_OFFLINE is set: run once with a connection, or copy the cache from a machine that \
         has it",
        .file.as_deref().map_or("no file".to_owned(), |file| format!("`{file}`")),
        if .file.is_some() { "not " } else { "" },
        .cache.display()
    )]
    NotCached {
        /// The repository.
        repo: String,
        /// The revision asked for.
        revision: String,
        /// The file asked for; none where the repository as a whole is unknown.
        file: Option<String>,
        /// The cache looked in.
        cache: PathBuf,
    },
    /// Too many requests, also after retries, or the hub asks for a longer pause than we make.
    #[error(
        "{endpoint} limits the rate of requests: try again {}; requests with an access token \
         (HF_TOKEN) have a higher limit",
        .wait_s.map_or("later".to_owned(), |wait| format!("in {wait} s"))
    )]
    RateLimited {
        /// The hub.
        endpoint: String,
        /// How long it asks to wait, in seconds, if it says.
        wait_s: Option<u64>,
    },
    /// The hub answered with an error that is none of the above.
    #[error("{url} answered {status}{}, also after retries where they could help", detail(.message.as_deref()))]
    Status {
        /// The address, without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the hub said.
        message: Option<String>,
    },
    /// No connection, or it broke again and again.
    #[error(
        "no connection to {url} after {attempts} attempts: check the network and HF_ENDPOINT, or \
         set HF_HUB_OFFLINE=1 to use what is in the cache"
    )]
    Network {
        /// The address, without its query.
        url: String,
        /// How many times it was tried.
        attempts: usize,
        /// What the last attempt failed with.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The transfer of a file broke again and again; what came is kept and continued next time.
    #[error(
        "the transfer of `{file}` broke {attempts} times in a row after {received} of {expected} \
         bytes: run again, it continues there"
    )]
    Interrupted {
        /// The file.
        file: String,
        /// How many attempts in a row brought no byte.
        attempts: usize,
        /// Bytes on this disk.
        received: u64,
        /// Bytes of the whole file.
        expected: u64,
        /// What the last attempt failed with, where it failed rather than ended early.
        #[source]
        source: Option<std::io::Error>,
    },
    /// What arrived is not what the hub announced. Nothing of it was kept.
    #[error(
        "`{file}` of `{repo}` arrived corrupted ({what} {expected} expected, {found} found) and \
         was deleted: try again, and look for a proxy that changes downloads if it happens again"
    )]
    Corrupted {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// What was compared: `SHA-256` or `size in bytes`.
        what: &'static str,
        /// What the hub announced.
        expected: String,
        /// What arrived.
        found: String,
    },
    /// The server does not speak the hub's protocol.
    #[error("{url} does not answer as a hub does ({what}): check HF_ENDPOINT and proxies")]
    Protocol {
        /// The address, without its query.
        url: String,
        /// What was missing or wrong.
        what: &'static str,
    },
    /// The hub's listing is not the JSON it should be.
    #[error("{url} does not list the repository as a hub does: check HF_ENDPOINT and proxies")]
    Listing {
        /// The address, without its query.
        url: String,
        /// What the reader said.
        #[source]
        source: serde_json::Error,
    },
    /// This disk refused.
    #[error("could not {action} {}", .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl HubError {
    /// Binds an operating system's error to what was tried and where.
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
            | Self::FileNotFound { .. } => true,
            // This machine's environment, its account at the hub, and the network.
            Self::InvalidEndpoint { .. }
            | Self::InvalidToken { .. }
            | Self::NoCacheFolder
            | Self::Gated { .. }
            | Self::BadToken { .. }
            | Self::Forbidden { .. }
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
