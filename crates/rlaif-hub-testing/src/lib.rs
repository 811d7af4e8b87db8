//! A local server that speaks the Hugging Face Hub's download protocol, for tests.
//!
//! [`HubServer`] serves folders, or files given in memory, as model and dataset repositories: with
//! commits, branches and tags, small files through a redirect on the hub itself, large ones
//! through a second address that (as the real storage does) refuses an access token, gated,
//! private and renamed repositories, ranges, and faults on demand. It notes every request.
//!
//! ```
//! use rlaif_hub_testing::{HubServer, Kind};
//!
//! let server = HubServer::start()?;
//! let commit = server.commit(Kind::Model, "org/tiny", "main", &[("config.json", b"{}")]);
//! assert_eq!(commit.len(), 40);
//! assert!(server.endpoint().starts_with("http://127.0.0.1:"));
//! assert!(server.requests().is_empty());
//! # Ok::<(), std::io::Error>(())
//! ```

mod fault;
mod kind;
mod protocol;
mod shared;
mod store;
mod wire;

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

pub use fault::{Action, ServerFault};
pub use kind::Kind;
pub use shared::Request;
use shared::Shared;
use store::{Access, Content};

/// Access to a repository's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visibility {
    /// Everyone.
    Public,
    /// Everyone sees that the repository exists; only these tokens can read its files.
    Gated(Vec<String>),
    /// Only these tokens see the repository.
    Private(Vec<String>),
}

/// The server; it stops when dropped.
#[derive(Debug)]
pub struct HubServer {
    shared: Arc<Shared>,
}

impl HubServer {
    /// Starts on two free local ports: one for the hub, one for its storage.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> io::Result<Self> {
        let hub = TcpListener::bind("127.0.0.1:0")?;
        let storage = TcpListener::bind("127.0.0.1:0")?;
        let shared = Arc::new(Shared {
            hub: hub.local_addr()?,
            storage: storage.local_addr()?,
            state: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        for listener in [hub, storage] {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || accept(&listener, &shared));
        }
        Ok(Self { shared })
    }

    /// The value for `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.shared.hub)
    }

    /// Adds a commit of these files (path and content) and makes `branch` name it. Returns its
    /// hash.
    pub fn commit(&self, kind: Kind, id: &str, branch: &str, files: &[(&str, &[u8])]) -> String {
        let files = files
            .iter()
            .map(|(path, bytes)| ((*path).to_owned(), Content::of_bytes(bytes)))
            .collect();
        self.shared.state().store.commit(kind, id, branch, files)
    }

    /// Adds a commit of the content of `folder`, read on request, as [`HubServer::commit`].
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn commit_folder(
        &self,
        kind: Kind,
        id: &str,
        branch: &str,
        folder: &Path,
    ) -> io::Result<String> {
        let files = store::read_folder(folder)?;
        Ok(self.shared.state().store.commit(kind, id, branch, files))
    }

    /// Serves every `org/name` folder below `root` as a repository with a `main` branch.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn serve_tree(&self, kind: Kind, root: &Path) -> io::Result<()> {
        for org in store::folders(root)? {
            for name in store::folders(&root.join(&org))? {
                let folder = root.join(&org).join(&name);
                self.commit_folder(kind, &format!("{org}/{name}"), "main", &folder)?;
            }
        }
        Ok(())
    }

    /// Makes another branch or tag name `commit`.
    pub fn tag(&self, kind: Kind, id: &str, name: &str, commit: &str) {
        self.shared.state().store.tag(kind, id, name, commit);
    }

    /// Restricts access to a repository. Tokens named here are valid; all others are not.
    pub fn restrict(&self, kind: Kind, id: &str, visibility: Visibility) {
        let access = match visibility {
            Visibility::Public => Access::Public,
            Visibility::Gated(tokens) => Access::Gated(tokens),
            Visibility::Private(tokens) => Access::Private(tokens),
        };
        self.shared.state().store.restrict(kind, id, access);
    }

    /// Makes a token valid, though no repository names it.
    pub fn add_token(&self, token: &str) {
        self.shared.state().store.add_token(token);
    }

    /// Redirects an old id to a new one, by 307.
    pub fn rename(&self, kind: Kind, old: &str, new: &str) {
        self.shared.state().store.rename(kind, old, new);
    }

    /// Injects a fault from now on.
    pub fn fail(&self, fault: ServerFault) {
        self.shared.state().faults.push(fault);
    }

    /// All requests so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.shared.state().requests.clear();
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for address in [self.shared.hub, self.shared.storage] {
            // Wakes the thread that waits for a connection; if this fails, the thread is gone
            // already.
            let _ = TcpStream::connect(address);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for connection in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(connection) = connection else { continue };
        let shared = Arc::clone(shared);
        // An error of the client's connection shows in its own test.
        std::thread::spawn(move || {
            let _ = wire::serve(connection, &shared);
        });
    }
}
