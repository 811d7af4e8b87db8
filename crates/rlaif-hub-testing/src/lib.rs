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

mod protocol;
mod store;
mod wire;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::{Access, Content, Store};

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A model repository: `/{id}`.
    Model,
    /// A dataset repository: `/datasets/{id}`.
    Dataset,
}

/// Who may read a repository's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visibility {
    /// Everyone.
    Public,
    /// Everyone sees that it is there; these tokens read its files.
    Gated(Vec<String>),
    /// These tokens alone see it.
    Private(Vec<String>),
}

/// A request as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// The path, percent-decoded, without the query.
    pub path: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// Whether it came to the storage address rather than to the hub.
    pub to_storage: bool,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// This answer instead of the right one. In the body and the headers, `{authorization}`
    /// becomes the request's own header.
    Answer {
        /// HTTP status.
        status: u16,
        /// Additional headers.
        headers: Vec<(String, String)>,
        /// Body.
        body: String,
    },
    /// The connection is cut after so many bytes of the body.
    CutAfter(u64),
    /// The last byte of the body is another one.
    Corrupt,
    /// `Range` is ignored and everything is sent.
    IgnoreRange,
}

/// Something that goes wrong for the next requests whose path matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Requests whose decoded path holds this, on either address.
    pub path: String,
    /// What happens.
    pub action: Action,
    /// To how many requests.
    pub times: usize,
}

impl Fault {
    /// The next request for `path` is answered with `status`.
    pub fn status(path: &str, status: u16) -> Self {
        let action = Action::Answer { status, headers: Vec::new(), body: String::new() };
        Self { path: path.to_owned(), action, times: 1 }
    }

    /// The same with one more header (for [`Action::Answer`]).
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Action::Answer { headers, .. } = &mut self.action {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// The same for so many requests.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }
}

/// The server; it stops when dropped.
#[derive(Debug)]
pub struct HubServer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) hub: SocketAddr,
    pub(crate) storage: SocketAddr,
    pub(crate) state: Mutex<State>,
    stopping: AtomicBool,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) requests: Vec<Request>,
    pub(crate) faults: Vec<Fault>,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HubServer {
    /// Starts on two free ports of this machine: one for the hub, one for its storage.
    ///
    /// # Errors
    /// When no port can be had.
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

    /// What `HF_ENDPOINT` is to be.
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

    /// Adds a commit of what lies in `folder`, read when it is asked for, as [`HubServer::commit`].
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

    /// Says who may read a repository. Tokens named here are valid; all others are not.
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

    /// Makes an old id lead to a new one, by 307.
    pub fn rename(&self, kind: Kind, old: &str, new: &str) {
        self.shared.state().store.rename(kind, old, new);
    }

    /// Something goes wrong from now on.
    pub fn fail(&self, fault: Fault) {
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
            // Wakes the thread that waits for a connection; if that fails, it is gone already.
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
        // A client that hangs up is its own affair; what it was sent shows in its test.
        std::thread::spawn(move || {
            let _ = wire::serve(connection, &shared);
        });
    }
}
