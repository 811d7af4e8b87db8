//! The cache that Python's `huggingface_hub` keeps, read and written the same way.
//!
//! ```text
//! <cache>/models--org--name/refs/<revision>            the commit it names
//!                           blobs/<etag>               contents, once each
//!                           snapshots/<commit>/<file>  links to blobs
//!                           .no_exist/<commit>/<file>  known not to be there
//! <cache>/.locks/models--org--name/<etag>.lock         held while a blob is written
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::CacheRepo;
use rlaif_files::read_text;

use crate::error::HubError;

/// One repository's part of the cache.
pub(crate) struct RepoCache {
    root: PathBuf,
    folder: PathBuf,
    layout: CacheRepo,
}

impl RepoCache {
    pub(crate) fn new(root: &Path, repo: hf_hub::Repo) -> Self {
        let folder = root.join(repo.folder_name());
        let layout = hf_hub::Cache::new(root.to_owned()).repo(repo);
        Self { root: root.to_owned(), folder, layout }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout.pointer_path(commit)
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.layout.blob_path(etag)
    }

    /// The file of a commit, if it is here. A link whose blob is gone is not.
    pub(crate) fn file(&self, commit: &str, file: &str) -> Option<PathBuf> {
        Some(self.snapshot(commit).join(file)).filter(|path| path.is_file())
    }

    /// The commit that a branch or tag named when it was last asked for.
    pub(crate) fn commit_of(&self, revision: &str) -> Option<String> {
        let text = read_text(&self.folder.join("refs").join(revision), 1 << 10).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    pub(crate) fn remember_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        write_aside(&self.folder.join("refs").join(revision), commit.as_bytes())
    }

    pub(crate) fn is_known_missing(&self, commit: &str, file: &str) -> bool {
        self.no_exist(commit, file).is_file()
    }

    pub(crate) fn remember_missing(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let path = self.no_exist(commit, file);
        if path.is_file() { Ok(()) } else { write_aside(&path, b"") }
    }

    fn no_exist(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }

    /// Holds the blob against other threads and processes until it is dropped.
    #[expect(
        clippy::disallowed_methods,
        reason = "the cache is shared with Python, links included"
    )]
    pub(crate) fn lock(&self, etag: &str, on_wait: impl FnOnce()) -> Result<fs::File, HubError> {
        let name = self.folder.file_name().unwrap_or_default();
        let path = self.root.join(".locks").join(name).join(format!("{etag}.lock"));
        create_parent(&path)?;
        let file = fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(HubError::io("open the lock file", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(()),
            Err(fs::TryLockError::WouldBlock) => {
                on_wait();
                file.lock()
            }
            Err(fs::TryLockError::Error(source)) => Err(source),
        }
        .map_err(HubError::io("lock", &path))?;
        Ok(file)
    }

    /// Makes `file` of `commit` lead to the blob.
    pub(crate) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<PathBuf, HubError> {
        let pointer = self.snapshot(commit).join(file);
        if pointer.is_file() {
            return Ok(pointer);
        }
        create_parent(&pointer)?;
        let blob = self.blob(etag);
        let ups = "../".repeat(file.split('/').count() + 1);
        let target = PathBuf::from(format!("{ups}blobs/{etag}"));
        let aside = rlaif_files::unique_sibling(&pointer);
        remove_if_there(&aside).map_err(HubError::io("remove", &aside))?;
        link_or_copy(&target, &blob, &aside).map_err(HubError::io("create", &aside))?;
        rlaif_files::rename_synced(&aside, &pointer).map_err(HubError::io("create", &pointer))?;
        Ok(pointer)
    }

    /// Names of a commit's files that are here, sorted.
    pub(crate) fn files(&self, commit: &str) -> Result<Vec<String>, HubError> {
        let snapshot = self.snapshot(commit);
        if snapshot.is_dir() { list_files(&snapshot) } else { Ok(Vec::new()) }
    }
}

/// Names of the files below `folder`, with `/` between folders, sorted. Links to folders are not
/// entered, and names that are not Unicode are left out: no repository has either.
pub(crate) fn list_files(folder: &Path) -> Result<Vec<String>, HubError> {
    let mut files = Vec::new();
    let mut pending = vec![(folder.to_owned(), String::new())];
    while let Some((path, prefix)) = pending.pop() {
        for entry in fs::read_dir(&path).map_err(HubError::io("list", &path))? {
            let entry = entry.map_err(HubError::io("list", &path))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type().map_err(HubError::io("look at", entry.path()))?;
            if kind.is_dir() {
                pending.push((entry.path(), format!("{prefix}{name}/")));
            } else if entry.path().is_file() {
                files.push(format!("{prefix}{name}"));
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// A whole commit hash: what needs no look-up.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40
        && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

pub(crate) fn create_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(HubError::io("create the folder", parent))
}

/// Writes beside the target and renames, so that no reader sees half of it.
fn write_aside(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    rlaif_files::write_shared(path, bytes).map_err(HubError::io("write", path))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn link_or_copy(target: &Path, blob: &Path, at: &Path) -> io::Result<()> {
    // Some network and USB file systems know no links; a copy serves as well.
    std::os::unix::fs::symlink(target, at).or_else(|_| fs::copy(blob, at).map(|_| ()))
}

#[cfg(windows)]
fn link_or_copy(target: &Path, blob: &Path, at: &Path) -> io::Result<()> {
    // Links need a privilege there; a copy serves as well.
    std::os::windows::fs::symlink_file(target, at).or_else(|_| fs::copy(blob, at).map(|_| ()))
}
