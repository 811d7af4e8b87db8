//! Repositories: commits, references, contents, and access.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::kind::Kind;

/// File extensions that the hub keeps in large-file storage by default (`.gitattributes`).
const LARGE: &[&str] =
    &["bin", "gz", "h5", "model", "msgpack", "onnx", "parquet", "pt", "safetensors", "zip"];

#[derive(Debug, Default)]
pub(crate) struct Store {
    repos: BTreeMap<(Kind, String), Repo>,
    renamed: BTreeMap<(Kind, String), String>,
    tokens: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Repo {
    pub(crate) access: Access,
    pub(crate) commits: BTreeMap<String, Files>,
    refs: BTreeMap<String, String>,
}

pub(crate) type Files = BTreeMap<String, Content>;

#[derive(Debug, Default, Clone)]
pub(crate) enum Access {
    #[default]
    Public,
    Gated(Vec<String>),
    Private(Vec<String>),
}

/// A file's bytes, and what is derived from them.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    bytes: Bytes,
    pub(crate) size: u64,
    pub(crate) sha256: String,
}

#[derive(Debug, Clone)]
enum Bytes {
    Memory(Arc<[u8]>),
    Disk(PathBuf),
}

impl Content {
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        let sha256 = hex(&Sha256::digest(bytes));
        Self { bytes: Bytes::Memory(bytes.into()), size: bytes.len() as u64, sha256 }
    }

    fn of_file(path: PathBuf) -> io::Result<Self> {
        let mut file = fs::File::open(&path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut size = 0;
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            size += n as u64;
        }
        Ok(Self { bytes: Bytes::Disk(path), size, sha256: hex(&hash.finalize()) })
    }

    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        match &self.bytes {
            Bytes::Memory(bytes) => Ok(bytes.to_vec()),
            Bytes::Disk(path) => fs::read(path),
        }
    }

    /// The ETag: the SHA-256 of a large file, 40 digits (git's object id, on the hub) of others.
    pub(crate) fn etag(&self, path: &str) -> &str {
        if is_large(path) { &self.sha256 } else { &self.sha256[..40] }
    }
}

pub(crate) fn is_large(path: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, ending)| LARGE.contains(&ending))
}

impl Repo {
    pub(crate) fn commit_of(&self, revision: &str) -> Option<&str> {
        let commit = self.refs.get(revision).map_or(revision, String::as_str);
        self.commits.get_key_value(commit).map(|(commit, _)| commit.as_str())
    }
}

impl Store {
    pub(crate) fn commit(&mut self, kind: Kind, id: &str, branch: &str, files: Files) -> String {
        let repo = self.repos.entry((kind, id.to_owned())).or_default();
        let mut hash = Sha256::new();
        hash.update(format!("{kind:?} {id} {branch} {}\n", repo.commits.len()));
        for (path, content) in &files {
            hash.update(format!("{path} {}\n", content.sha256));
        }
        let commit = hex(&hash.finalize())[..40].to_owned();
        repo.commits.insert(commit.clone(), files);
        repo.refs.insert(branch.to_owned(), commit.clone());
        commit
    }

    pub(crate) fn tag(&mut self, kind: Kind, id: &str, name: &str, commit: &str) {
        let repo = self.repos.entry((kind, id.to_owned())).or_default();
        repo.refs.insert(name.to_owned(), commit.to_owned());
    }

    pub(crate) fn restrict(&mut self, kind: Kind, id: &str, access: Access) {
        if let Access::Gated(tokens) | Access::Private(tokens) = &access {
            self.tokens.extend(tokens.iter().cloned());
        }
        self.repos.entry((kind, id.to_owned())).or_default().access = access;
    }

    pub(crate) fn add_token(&mut self, token: &str) {
        self.tokens.insert(token.to_owned());
    }

    pub(crate) fn knows_token(&self, token: &str) -> bool {
        self.tokens.contains(token)
    }

    pub(crate) fn rename(&mut self, kind: Kind, old: &str, new: &str) {
        self.renamed.insert((kind, old.to_owned()), new.to_owned());
    }

    pub(crate) fn renamed(&self, kind: Kind, id: &str) -> Option<&str> {
        self.renamed.get(&(kind, id.to_owned())).map(String::as_str)
    }

    pub(crate) fn repo(&self, kind: Kind, id: &str) -> Option<&Repo> {
        self.repos.get(&(kind, id.to_owned()))
    }

    /// The content that the storage address serves under a hash.
    pub(crate) fn by_sha256(&self, sha256: &str) -> Option<&Content> {
        let mut all = self.repos.values().flat_map(|repo| repo.commits.values());
        all.find_map(|files| files.values().find(|content| content.sha256 == sha256))
    }
}

/// Names of the folders directly in `root`.
pub(crate) fn folders(root: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.path().is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// All files below `root`.
pub(crate) fn read_folder(root: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    let mut pending = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = pending.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let name = format!("{prefix}{name}");
            if path.is_dir() {
                pending.push((path, format!("{name}/")));
            } else {
                files.insert(name, Content::of_file(path)?);
            }
        }
    }
    Ok(files)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
