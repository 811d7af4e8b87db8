//! A repository's files, from the cache, the hub or a folder.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hf_hub::api::RepoInfo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::cache::{RepoCache, is_commit, list_files};
use crate::error::HubError;
use crate::http::{Patience, Subject};
use crate::hub::{Hub, Network};
use crate::kind::RepoKind;

/// Characters that RFC 3986 allows unescaped in a path segment.
const PATH_SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The files of one repository at one commit, or of one folder on this disk.
///
/// ```
/// use rlaif_hub::Repo;
///
/// let folder = std::env::temp_dir().join("rlaif-hub-doc");
/// std::fs::create_dir_all(folder.join("sub"))?;
/// std::fs::write(folder.join("sub/config.json"), "{}")?;
/// let repo = Repo::local(&folder);
/// assert_eq!(repo.files()?, ["sub/config.json"]);
/// assert_eq!(repo.get("sub/config.json")?, folder.join("sub/config.json"));
/// assert_eq!(repo.try_get("tokenizer.json")?, None);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Repo {
    source: Source,
}

enum Source {
    Folder(PathBuf),
    Hub(HubRepo),
}

pub(crate) struct HubRepo {
    pub(crate) hub: Hub,
    pub(crate) kind: RepoKind,
    pub(crate) id: String,
    pub(crate) revision: String,
    pub(crate) cache: RepoCache,
    resolved: Mutex<Option<Arc<Resolved>>>,
}

/// The known facts about the revision.
#[derive(Debug)]
struct Resolved {
    commit: String,
    knowledge: Knowledge,
}

#[derive(Debug)]
enum Knowledge {
    /// All files of the commit, from the hub.
    Listing(Vec<String>),
    /// The commit only; the hub was not asked.
    Commit,
    /// The commit according to the cache, because the hub cannot be asked.
    Cache,
}

impl Repo {
    /// The files of a folder on this disk.
    pub fn local(folder: impl Into<PathBuf>) -> Self {
        Self { source: Source::Folder(folder.into()) }
    }

    pub(crate) fn on_hub(
        hub: &Hub,
        kind: RepoKind,
        id: &str,
        revision: &str,
    ) -> Result<Self, HubError> {
        check_id(id)?;
        if !is_safe_path(revision) || !revision.bytes().all(|b| b.is_ascii_graphic()) {
            let (repo, revision) = (id.to_owned(), revision.to_owned());
            return Err(HubError::InvalidRevision { repo, revision });
        }
        let repo = hf_hub::Repo::new(id.to_owned(), kind.of_hf_hub());
        Ok(Self {
            source: Source::Hub(HubRepo {
                cache: RepoCache::new(hub.cache_dir(), repo),
                hub: hub.clone(),
                kind,
                id: id.to_owned(),
                revision: revision.to_owned(),
                resolved: Mutex::new(None),
            }),
        })
    }

    /// The repository's id or the folder's path: its name in messages and provenance.
    pub fn name(&self) -> String {
        match &self.source {
            Source::Folder(folder) => folder.display().to_string(),
            Source::Hub(repo) => repo.id.clone(),
        }
    }

    /// The path of `file` on this disk; downloads it first if necessary.
    ///
    /// # Errors
    /// [`HubError::FileNotFound`] when the repository has no such file, and every other error of
    /// a download: see [`HubError`].
    pub fn get(&self, file: &str) -> Result<PathBuf, HubError> {
        if let Some(path) = self.try_get(file)? {
            return Ok(path);
        }
        Err(match &self.source {
            Source::Folder(folder) => HubError::FileNotFound {
                repo: folder.display().to_string(),
                revision: "this disk".to_owned(),
                file: file.to_owned(),
                files: list_files(folder)?,
            },
            Source::Hub(repo) => repo.missing(file)?,
        })
    }

    /// As [`Repo::get`], with `None` for a file that the repository does not have (offline: that is
    /// not in the cache).
    ///
    /// # Errors
    /// Every error of a download but [`HubError::FileNotFound`].
    pub fn try_get(&self, file: &str) -> Result<Option<PathBuf>, HubError> {
        if !is_safe_path(file) {
            return Err(HubError::InvalidFileName { repo: self.name(), file: file.to_owned() });
        }
        match &self.source {
            Source::Folder(folder) => Ok(Some(folder.join(file)).filter(|path| path.is_file())),
            Source::Hub(repo) => repo.try_get(file),
        }
    }

    /// Names of all files, sorted, with `/` between folders. If the hub cannot be asked, the names
    /// of the cached files.
    ///
    /// # Errors
    /// Every error of a request; [`HubError::Io`] when a folder cannot be listed.
    pub fn files(&self) -> Result<Vec<String>, HubError> {
        match &self.source {
            Source::Folder(folder) => list_files(folder),
            Source::Hub(repo) => repo.files(),
        }
    }

    /// The commit that files come from, for provenance; a folder has none.
    ///
    /// # Errors
    /// Every error of a request.
    pub fn commit(&self) -> Result<Option<String>, HubError> {
        match &self.source {
            Source::Folder(_) => Ok(None),
            Source::Hub(repo) => Ok(Some(repo.resolve()?.commit.clone())),
        }
    }
}

impl Hub {
    /// A repository, at a branch, tag or commit (`None`: `main`). No request is made yet.
    ///
    /// All files come from one commit: the commit of the revision at the first look-up.
    ///
    /// # Errors
    /// [`HubError::InvalidRepoId`] and [`HubError::InvalidRevision`].
    pub fn repo(&self, kind: RepoKind, id: &str, revision: Option<&str>) -> Result<Repo, HubError> {
        Repo::on_hub(self, kind, id, revision.unwrap_or("main"))
    }

    /// A folder on this disk if `location` is one, else the repository with that name: the meaning
    /// of a `--model` argument.
    ///
    /// # Errors
    /// As [`Hub::repo`]; also [`HubError::FolderHasNoRevisions`].
    pub fn open(
        &self,
        kind: RepoKind,
        location: &str,
        revision: Option<&str>,
    ) -> Result<Repo, HubError> {
        let folder = Path::new(location);
        if !folder.is_dir() {
            return self.repo(kind, location, revision);
        }
        match revision {
            Some(revision) => Err(HubError::FolderHasNoRevisions {
                folder: folder.to_owned(),
                revision: revision.to_owned(),
            }),
            None => Ok(Repo::local(folder)),
        }
    }
}

impl fmt::Debug for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Folder(folder) => f.debug_tuple("Repo").field(folder).finish(),
            Source::Hub(repo) => f
                .debug_struct("Repo")
                .field("kind", &repo.kind)
                .field("id", &repo.id)
                .field("revision", &repo.revision)
                .finish_non_exhaustive(),
        }
    }
}

impl HubRepo {
    pub(crate) fn subject<'a>(&'a self, file: Option<&'a str>) -> Subject<'a> {
        Subject { kind: self.kind, repo: &self.id, revision: &self.revision, file }
    }

    /// Address of a file's content at `commit`.
    pub(crate) fn file_url(&self, commit: &str, file: &str) -> String {
        let encoded: Vec<String> = file.split('/').map(encode).collect();
        let path = self.kind.path(&self.id);
        format!("{}/{path}/resolve/{commit}/{}", self.hub.endpoint(), encoded.join("/"))
    }

    fn try_get(&self, file: &str) -> Result<Option<PathBuf>, HubError> {
        // A pinned commit that is in the cache needs no request.
        if is_commit(&self.revision)
            && let Some(path) = self.cache.file(&self.revision, file)
        {
            return Ok(Some(path));
        }
        let resolved = self.resolve()?;
        let commit = &resolved.commit;
        if let Some(path) = self.cache.file(commit, file) {
            self.remember(commit)?;
            return Ok(Some(path));
        }
        match &resolved.knowledge {
            _ if self.cache.is_known_missing(commit, file) => return Ok(None),
            Knowledge::Cache if self.cache.snapshot(commit).is_dir() => return Ok(None),
            Knowledge::Cache => return Err(self.not_cached(Some(file))),
            Knowledge::Listing(files) if !files.iter().any(|f| f == file) => {
                self.cache.remember_missing(commit, file)?;
                return Ok(None);
            }
            Knowledge::Listing(_) | Knowledge::Commit => {}
        }
        match self.download(commit, file) {
            Ok(path) => {
                self.remember(commit)?;
                Ok(Some(path))
            }
            Err(HubError::FileNotFound { .. }) => {
                self.cache.remember_missing(commit, file)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The error for a file that `get` cannot return.
    fn missing(&self, file: &str) -> Result<HubError, HubError> {
        let resolved = self.resolve()?;
        if matches!(resolved.knowledge, Knowledge::Cache)
            && !self.cache.is_known_missing(&resolved.commit, file)
        {
            return Ok(self.not_cached(Some(file)));
        }
        Ok(HubError::FileNotFound {
            repo: self.id.clone(),
            revision: self.revision.clone(),
            file: file.to_owned(),
            files: self.files().unwrap_or_default(),
        })
    }

    fn files(&self) -> Result<Vec<String>, HubError> {
        let resolved = self.resolve()?;
        match &resolved.knowledge {
            Knowledge::Listing(files) => Ok(files.clone()),
            Knowledge::Cache => self.cache.files(&resolved.commit),
            Knowledge::Commit => {
                let listed = self.ask(&resolved.commit)?;
                let files = match &listed.knowledge {
                    Knowledge::Listing(files) => files.clone(),
                    Knowledge::Commit | Knowledge::Cache => self.cache.files(&listed.commit)?,
                };
                *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Arc::new(listed));
                Ok(files)
            }
        }
    }

    /// The commit and its known properties; the hub is asked at most once.
    fn resolve(&self) -> Result<Arc<Resolved>, HubError> {
        let mut known = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolved) = &*known {
            return Ok(Arc::clone(resolved));
        }
        let resolved = if self.hub.inner.network == Network::Offline {
            let commit = self.cached_commit().ok_or_else(|| self.not_cached(None))?;
            Resolved { commit, knowledge: Knowledge::Cache }
        } else if is_commit(&self.revision) {
            Resolved { commit: self.revision.clone(), knowledge: Knowledge::Commit }
        } else {
            self.ask(&self.revision)?
        };
        Ok(Arc::clone(known.insert(Arc::new(resolved))))
    }

    /// Requests the commit and its files from the hub, and falls back to the cache if the hub is
    /// unreachable.
    fn ask(&self, revision: &str) -> Result<Resolved, HubError> {
        let client = &self.hub.inner.client;
        let kind = self.kind.name();
        let url =
            format!("{}/api/{kind}s/{}/revision/{}", client.endpoint(), self.id, encode(revision));
        let cached = self.cached_commit().filter(|commit| self.cache.snapshot(commit).is_dir());
        let patience = if cached.is_some() { Patience::OnlyIfReachable } else { Patience::Normal };
        let mut response = match (client.get(&url, 0, patience, self.subject(None)), cached) {
            (Ok(response), _) => response,
            (Err(HubError::Network { source, .. }), Some(commit)) => {
                client.notice(&format!(
                    "{}: {} cannot be reached ({source}); using commit {commit} from the cache",
                    self.id,
                    client.endpoint()
                ));
                return Ok(Resolved { commit, knowledge: Knowledge::Cache });
            }
            (Err(error), _) => return Err(error),
        };
        // The listing of a data set of a million files is smaller.
        const MOST_BYTES: u64 = 256 << 20;
        let reader = response.body_mut().with_config().limit(MOST_BYTES).reader();
        let info: RepoInfo = serde_json::from_reader(reader)
            .map_err(|source| HubError::Listing { url: url.clone(), source })?;
        if !is_commit(&info.sha) {
            return Err(HubError::Protocol { url, what: "`sha` is not a commit hash" });
        }
        let mut files: Vec<String> = info.siblings.into_iter().map(|s| s.rfilename).collect();
        if let Some(file) = files.iter().find(|file| !is_safe_path(file)) {
            let (repo, file) = (self.id.clone(), file.clone());
            return Err(HubError::InvalidFileName { repo, file });
        }
        files.sort_unstable();
        Ok(Resolved { commit: info.sha, knowledge: Knowledge::Listing(files) })
    }

    fn cached_commit(&self) -> Option<String> {
        if is_commit(&self.revision) {
            Some(self.revision.clone())
        } else {
            self.cache.commit_of(&self.revision)
        }
    }

    /// Writes the reference only once a file of the commit is on this disk: an older commit with
    /// files serves an offline run better than a newer one without.
    fn remember(&self, commit: &str) -> Result<(), HubError> {
        if is_commit(&self.revision) {
            return Ok(());
        }
        self.cache.remember_commit(&self.revision, commit)
    }

    fn not_cached(&self, file: Option<&str>) -> HubError {
        HubError::NotCached {
            repo: self.id.clone(),
            revision: self.revision.clone(),
            file: file.map(str::to_owned),
            cache: self.cache.root().to_owned(),
        }
    }
}

fn encode(segment: &str) -> String {
    utf8_percent_encode(segment, PATH_SEGMENT).to_string()
}

/// The rules of Python's `validate_repo_id`.
fn check_id(id: &str) -> Result<(), HubError> {
    const LONGEST: usize = 96;
    let parts: Vec<&str> = id.split('/').collect();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let reason = if parts.len() > 2 {
        "it has more than one `/`"
    } else if parts.iter().any(|part| part.is_empty() || part.len() > LONGEST) {
        "a part is empty or longer than 96 characters"
    } else if !id.bytes().all(|b| word(b) || matches!(b, b'-' | b'.' | b'/')) {
        "it has other characters"
    } else if parts.iter().any(|p| !word(p.as_bytes()[0]) || !word(p.as_bytes()[p.len() - 1])) {
        "a part begins or ends with `-` or `.`"
    } else if id.contains("--") || id.contains("..") {
        "it has `--` or `..`"
    } else if id.ends_with(".git") {
        "it ends with `.git`"
    } else {
        return Ok(());
    };
    Err(HubError::InvalidRepoId { id: id.to_owned(), reason })
}

/// `true` if a name with `/` in it stays below the folder that it is joined to, on every system.
fn is_safe_path(name: &str) -> bool {
    name.len() <= 1024
        && !name.chars().any(|c| c.is_control() || matches!(c, '\\' | ':'))
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && Path::new(name).is_relative()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_checked_as_python_checks_them() {
        for good in ["gpt2", "google/flan-t5-small", "a/b.c_d-e", "0/1"] {
            check_id(good).unwrap();
        }
        for bad in [
            "", "/", "a/", "/a", "a/b/c", "a b", "a/..", "../a", "a--b", "-a/b", "a/b.git", "é/b",
            "a:b",
        ] {
            assert!(matches!(check_id(bad), Err(HubError::InvalidRepoId { .. })), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_safe_path_never_leaves_its_folder(name in "[./\\\\a:\u{0}~ ]{0,12}") {
            if is_safe_path(&name) {
                let joined = Path::new("/some/folder").join(&name);
                let inside = joined
                    .components()
                    .skip(3)
                    .all(|c| matches!(c, std::path::Component::Normal(_)));
                prop_assert!(joined.starts_with("/some/folder") && inside, "{}", joined.display());
            }
        }
    }
}
