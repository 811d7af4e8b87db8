//! One file from the hub into the cache: continued where it stopped, and checked.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG};
use ureq::http::{HeaderMap, StatusCode};

use crate::cache::create_parent;
use crate::error::HubError;
use crate::http::{Client, Patience, Subject, text_header};
use crate::progress::{DownloadProgress, Event};
use crate::repo::HubRepo;

/// The hub's metadata of a file.
struct Metadata {
    /// The blob's name in the cache.
    etag: String,
    size: u64,
    /// Lower-case hexadecimal, for files in large-file storage.
    sha256: Option<String>,
}

impl Metadata {
    fn read(headers: &HeaderMap, commit: &str) -> Result<Self, &'static str> {
        let of = text_header(headers, "x-repo-commit").ok_or("no X-Repo-Commit header")?;
        if of != commit {
            return Err("X-Repo-Commit is another commit than asked for");
        }
        let linked = text_header(headers, "x-linked-etag");
        let is_linked = linked.is_some();
        let etag =
            linked.or_else(|| text_header(headers, ETAG.as_str())).ok_or("no ETag header")?;
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        // The ETag becomes a file name.
        let fits = etag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !fits || etag.is_empty() || etag.len() > 128 {
            return Err("its ETag is neither a hash nor a name");
        }
        let size = text_header(headers, "x-linked-size")
            .or_else(|| text_header(headers, CONTENT_LENGTH.as_str()))
            .and_then(|size| size.parse().ok())
            .ok_or("no X-Linked-Size and no Content-Length header")?;
        let is_hash = etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
        let sha256 = (is_linked && is_hash).then(|| etag.to_ascii_lowercase());
        Ok(Self { etag, size, sha256 })
    }
}

impl HubRepo {
    /// Downloads `file` of `commit` into the cache.
    pub(crate) fn download(&self, commit: &str, file: &str) -> Result<PathBuf, HubError> {
        let client = &self.hub.inner.client;
        let url = self.file_url(commit, file);
        let subject = self.subject(Some(file));
        let metadata = Metadata::read(&client.head(&url, subject)?, commit)
            .map_err(|what| HubError::Protocol { url: url.clone(), what })?;
        let blob = self.cache.blob(&metadata.etag);
        if !has_size(&blob, metadata.size) {
            let _held = self.cache.lock(&metadata.etag, || {
                client.notice(&format!("{file}: waiting for another download of it"));
            })?;
            // Another process may have downloaded it meanwhile.
            if !has_size(&blob, metadata.size) {
                create_parent(&blob)?;
                Transfer { client, url: &url, subject, file, metadata: &metadata }.run(&blob)?;
            }
        }
        self.cache.link(commit, file, &metadata.etag)
    }
}

fn has_size(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == size)
}

struct Transfer<'a> {
    client: &'a Client,
    url: &'a str,
    subject: Subject<'a>,
    file: &'a str,
    metadata: &'a Metadata,
}

/// Reports the end of the transfer to the listener when dropped, on success and on failure.
struct Ended<'a>(&'a dyn DownloadProgress, &'a str);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.note(Event::Ended { file: self.1 });
    }
}

impl Transfer<'_> {
    fn run(&self, blob: &Path) -> Result<(), HubError> {
        let partial = blob.with_file_name(format!("{}.incomplete", self.metadata.etag));
        if self.metadata.sha256.is_none() {
            // Without a checksum, an old beginning could not be checked against the new end.
            remove(&partial)?;
        }
        let _ended = Ended(&*self.client.progress, self.file);
        let mut part = Partial::open(&partial)?;
        let continued = part.len > 0;
        self.fetch(&mut part)?;
        if let Err(corrupted) = self.check(&part) {
            drop(part);
            remove(&partial)?;
            if !continued {
                return Err(corrupted);
            }
            // The partial file of an earlier run may be at fault.
            part = Partial::open(&partial)?;
            self.fetch(&mut part)?;
            if let Err(corrupted) = self.check(&part) {
                drop(part);
                remove(&partial)?;
                return Err(corrupted);
            }
        }
        part.file.sync_all().map_err(HubError::io("write", &partial))?;
        drop(part);
        rlaif_files::rename_synced(&partial, blob).map_err(HubError::io("create", blob))
    }

    /// Requests the file, and resumes where the connection broke, until it is complete.
    fn fetch(&self, part: &mut Partial) -> Result<(), HubError> {
        let size = self.metadata.size;
        if part.len > size {
            part.restart()?;
        }
        self.client.progress.note(Event::Started {
            file: self.file,
            total: size,
            present: part.len,
        });
        let mut patience = self.client.retry.patience();
        while part.len < size {
            let before = part.len;
            let broke = self.fetch_once(part)?;
            if part.len >= size {
                break;
            }
            if part.len > before {
                patience = self.client.retry.patience();
            }
            // The number of consecutive attempts without a byte.
            let fruitless = patience.attempts();
            let Ok(pause) = patience.pause(None) else {
                return Err(HubError::Interrupted {
                    file: self.file.to_owned(),
                    attempts: fruitless,
                    received: part.len,
                    expected: size,
                    source: broke,
                });
            };
            self.client.notice(&format!(
                "{}: the connection broke at {} of {size} bytes; going on in {:.1} s",
                self.file,
                part.len,
                pause.as_secs_f64()
            ));
            std::thread::sleep(pause);
        }
        Ok(())
    }

    /// Sends one request. A broken connection is returned as a value, not as an error, and the
    /// received bytes are kept.
    fn fetch_once(&self, part: &mut Partial) -> Result<Option<io::Error>, HubError> {
        let size = self.metadata.size;
        let response = self.client.get(self.url, part.len, Patience::Normal, self.subject)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = text_header(response.headers(), CONTENT_RANGE.as_str());
                if range.as_deref().and_then(start_of_range) != Some(part.len) {
                    let what = "it sent another part of the file than asked for";
                    return Err(HubError::Protocol { url: self.url.to_owned(), what });
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                part.restart()?;
                return Ok(None);
            }
            // The server ignores `Range` and sends everything.
            _ => part.restart()?,
        }
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match body.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(n) => part.write(&buffer[..n])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Some(error)),
            }
            self.client
                .progress
                .note(Event::Advanced { file: self.file, present: part.len.min(size) });
            if part.len > size {
                return Ok(None);
            }
        }
    }

    fn check(&self, part: &Partial) -> Result<(), HubError> {
        let corrupted = |what, expected: String, found: String| HubError::Corrupted {
            repo: self.subject.repo.to_owned(),
            file: self.file.to_owned(),
            what,
            expected,
            found,
        };
        if part.len != self.metadata.size {
            let (expected, found) = (self.metadata.size.to_string(), part.len.to_string());
            return Err(corrupted("size in bytes", expected, found));
        }
        let Some(expected) = &self.metadata.sha256 else { return Ok(()) };
        let found: String = rlaif_files::hex(&part.hash.clone().finalize());
        if *expected == found { Ok(()) } else { Err(corrupted("SHA-256", expected.clone(), found)) }
    }
}

/// The beginning of a file, and its running hash.
struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    hash: Sha256,
}

impl Partial {
    #[expect(
        clippy::disallowed_methods,
        reason = "the cache is shared with Python, links included"
    )]
    fn open(path: &Path) -> Result<Self, HubError> {
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(HubError::io("open", path))?;
        let mut hash = Sha256::new();
        let mut len = 0;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = file.read(&mut buffer).map_err(HubError::io("read", path))?;
            if n == 0 {
                return Ok(Self { path: path.to_owned(), file, len, hash });
            }
            hash.update(&buffer[..n]);
            len += n as u64;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(HubError::io("write", &self.path))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(HubError::io("write", &self.path))?;
        self.hash = Sha256::new();
        self.len = 0;
        Ok(())
    }
}

/// `5` of `bytes 5-9/10`.
fn start_of_range(content_range: &str) -> Option<u64> {
    content_range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

fn remove(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(HubError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
