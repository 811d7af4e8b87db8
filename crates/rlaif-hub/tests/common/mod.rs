//! A hub on this machine, a cache in a temporary folder, and an ear for what happens.

// Every test file is a crate of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rlaif_hub::{DownloadProgress, Event, Hub, HubBuilder, Network, Repo, RepoKind, Retry};
use rlaif_hub_testing::{HubServer, Request};

pub const ID: &str = "org/tiny";

#[derive(Clone, Default)]
pub struct Ear(Arc<Mutex<Vec<String>>>);

impl DownloadProgress for Ear {
    fn note(&self, event: Event<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }
}

impl Ear {
    pub fn heard(&self, what: &str) -> bool {
        self.0.lock().unwrap().iter().any(|event| event.contains(what))
    }
}

pub struct Place {
    pub server: HubServer,
    pub cache: tempfile::TempDir,
    pub ear: Ear,
}

impl Place {
    pub fn new() -> Self {
        let server = HubServer::start().unwrap();
        Self { server, cache: tempfile::tempdir().unwrap(), ear: Ear::default() }
    }

    pub fn builder(&self) -> HubBuilder {
        Hub::builder()
            .endpoint(self.server.endpoint())
            .cache_dir(self.cache.path())
            .progress(self.ear.clone())
            .retry(quick())
    }

    pub fn hub(&self) -> Hub {
        self.builder().build().unwrap()
    }

    pub fn model(&self, revision: Option<&str>) -> Repo {
        self.hub().repo(RepoKind::Model, ID, revision).unwrap()
    }

    pub fn offline(&self, revision: Option<&str>) -> Repo {
        let hub = self.builder().network(Network::Offline).build().unwrap();
        hub.repo(RepoKind::Model, ID, revision).unwrap()
    }

    pub fn folder(&self) -> PathBuf {
        self.cache.path().join("models--org--tiny")
    }

    /// Requests that a storage address got.
    pub fn storage(&self) -> Vec<Request> {
        self.server.requests().into_iter().filter(|request| request.to_storage).collect()
    }
}

pub fn quick() -> Retry {
    Retry {
        retries: 3,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_secs(3),
    }
}

/// Bytes that differ everywhere, so that a misplaced part shows.
pub fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
