//! The hub's answers.

use crate::kind::Kind;
use crate::shared::{Request, Shared};
use crate::store::{Access, Content, Repo, Store, is_large};

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// The meaning of a path on the hub.
enum Target<'a> {
    /// `/api/models/{id}/revision/{revision}`
    Listing { kind: Kind, id: &'a str, revision: &'a str },
    /// `/{id}/resolve/{revision}/{file}`
    File { kind: Kind, id: &'a str, revision: &'a str, file: &'a str },
    /// `/api/resolve-cache/models/{id}/{commit}/{file}`: the address that serves small files.
    Cached { kind: Kind, id: &'a str, revision: &'a str, file: &'a str },
}

pub(crate) fn answer(request: &Request, store: &Store, shared: &Shared) -> Response {
    if request.to_storage {
        return storage(request, store);
    }
    let Some(target) = parse(&request.path) else {
        return error(404, "", "Not Found");
    };
    let (Target::Listing { kind, id, revision }
    | Target::File { kind, id, revision, .. }
    | Target::Cached { kind, id, revision, .. }) = target;
    if let Some(new) = store.renamed(kind, id) {
        // Relative, as in the hub's answers.
        let location = request.path.replacen(id, new, 1);
        return Response::new(307).header("Location", &encode(&location));
    }
    let token = request.authorization.as_deref().and_then(|value| value.strip_prefix("Bearer "));
    if token.is_some_and(|token| !store.knows_token(token)) {
        return error(401, "", "Invalid credentials in Authorization header");
    }
    let unknown = || match token {
        None => error(401, "RepoNotFound", "Repository not found"),
        Some(_) => error(404, "RepoNotFound", "Repository not found"),
    };
    let Some(repo) = store.repo(kind, id) else { return unknown() };
    if matches!(&repo.access, Access::Private(tokens) if !is_granted(tokens, token)) {
        return unknown();
    }
    let Some(commit) = repo.commit_of(revision) else {
        return error(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"));
    };
    match target {
        Target::Listing { .. } => listing(repo, id, commit),
        Target::File { file, .. } | Target::Cached { file, .. } => {
            if matches!(&repo.access, Access::Gated(tokens) if !is_granted(tokens, token)) {
                let status = if token.is_some() { 403 } else { 401 };
                return error(status, "GatedRepo", &format!("Access to model {id} is restricted."));
            }
            let Some(content) = repo.commits.get(commit).and_then(|files| files.get(file)) else {
                return error(404, "EntryNotFound", "Entry not found")
                    .header("X-Repo-Commit", commit);
            };
            let etag = format!("\"{}\"", content.etag(file));
            let response = if is_large(file) {
                let (address, hash) = (shared.storage, &content.sha256);
                Response::new(302)
                    .header(
                        "Location",
                        &format!("http://{address}/{hash}?Signature=storage-secret"),
                    )
                    .header("X-Linked-Etag", &etag)
                    .header("X-Linked-Size", &content.size.to_string())
            } else if matches!(target, Target::File { .. }) {
                let kind = plural(kind);
                let path = format!("/api/resolve-cache/{kind}/{id}/{commit}/{file}");
                Response::new(307).header("Location", &encode(&path))
            } else {
                bytes(content, request.range.as_deref()).header("ETag", &etag)
            };
            response.header("X-Repo-Commit", commit)
        }
    }
}

/// `true` if the answer's body is a file's content.
pub(crate) fn sends_content(request: &Request, store: &Store) -> bool {
    if request.to_storage {
        return store.by_sha256(request.path.trim_start_matches('/')).is_some();
    }
    matches!(parse(&request.path), Some(Target::Cached { .. }))
}

fn storage(request: &Request, store: &Store) -> Response {
    // As the real storage: a presigned address and a token are one authentication too many.
    if request.authorization.is_some() {
        return error(400, "", "Only one auth mechanism allowed");
    }
    match store.by_sha256(request.path.trim_start_matches('/')) {
        Some(content) => bytes(content, request.range.as_deref())
            .header("ETag", &format!("\"{}\"", content.sha256)),
        None => error(403, "", "AccessDenied"),
    }
}

fn bytes(content: &Content, range: Option<&str>) -> Response {
    let Ok(mut body) = content.read() else { return error(500, "", "the file is gone") };
    let size = body.len();
    let from = range
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        None => Response { body, ..Response::new(200) }.header("Accept-Ranges", "bytes"),
        Some(from) if from >= size => {
            Response::new(416).header("Content-Range", &format!("bytes */{size}"))
        }
        Some(from) => {
            body.drain(..from);
            Response { body, ..Response::new(206) }
                .header("Content-Range", &format!("bytes {from}-{}/{size}", size - 1))
        }
    }
}

fn listing(repo: &Repo, id: &str, commit: &str) -> Response {
    let files: Vec<String> = repo.commits[commit]
        .keys()
        .map(|path| format!("{{\"rfilename\":\"{}\"}}", path.replace('"', "\\\"")))
        .collect();
    let gated = matches!(repo.access, Access::Gated(_));
    let private = matches!(repo.access, Access::Private(_));
    let body = format!(
        "{{\"_id\":\"0\",\"id\":\"{id}\",\"modelId\":\"{id}\",\"sha\":\"{commit}\",\
         \"private\":{private},\"gated\":{gated},\"tags\":[],\"downloads\":0,\"likes\":0,\
         \"siblings\":[{}]}}",
        files.join(",")
    );
    Response { body: body.into_bytes(), ..Response::new(200) }
        .header("Content-Type", "application/json")
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let body = format!("{{\"error\":\"{message}\"}}").into_bytes();
    let response = Response { body, ..Response::new(status) }.header("X-Error-Message", message);
    if code.is_empty() { response } else { response.header("X-Error-Code", code) }
}

fn is_granted(tokens: &[String], token: Option<&str>) -> bool {
    token.is_some_and(|token| tokens.iter().any(|t| t == token))
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Model => "models",
        Kind::Dataset => "datasets",
    }
}

fn parse(path: &str) -> Option<Target<'_>> {
    let kinds = [(Kind::Model, "models"), (Kind::Dataset, "datasets")];
    let of_kind = |rest: &str| {
        let (word, _) = rest.split_once('/')?;
        kinds.into_iter().find(|(_, plural)| *plural == word).map(|(kind, _)| kind)
    };
    let rest = path.strip_prefix('/')?;
    if let Some(rest) = rest.strip_prefix("api/resolve-cache/") {
        let kind = of_kind(rest)?;
        let (_, rest) = rest.split_once('/')?;
        let (id, rest) = split_id(rest)?;
        let (revision, file) = rest.split_once('/')?;
        return Some(Target::Cached { kind, id, revision, file });
    }
    if let Some(rest) = rest.strip_prefix("api/") {
        let kind = of_kind(rest)?;
        let (_, rest) = rest.split_once('/')?;
        return Some(match rest.split_once("/revision/") {
            Some((id, revision)) => Target::Listing { kind, id, revision },
            None => Target::Listing { kind, id: rest, revision: "main" },
        });
    }
    let (kind, rest) = match rest.strip_prefix("datasets/") {
        Some(rest) => (Kind::Dataset, rest),
        None => (Kind::Model, rest),
    };
    let (id, rest) = rest.split_once("/resolve/")?;
    // A revision with a slash arrives decoded; none that a test needs has one before a file.
    let (revision, file) = rest.split_once('/')?;
    Some(Target::File { kind, id, revision, file })
}

/// `org/name` and what follows.
fn split_id(path: &str) -> Option<(&str, &str)> {
    let org = path.find('/')?;
    let end = org + 1 + path[org + 1..].find('/')?;
    Some((&path[..end], &path[end + 1..]))
}

/// Percent-encodes characters that a `Location` cannot contain.
fn encode(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~:".contains(&b);
    path.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

impl Response {
    fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}
