//! State shared by the server's threads.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::fault::ServerFault;
use crate::store::Store;

/// A request as the server received it.
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
    /// `true` if the request came to the storage address rather than to the hub.
    pub to_storage: bool,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) hub: SocketAddr,
    pub(crate) storage: SocketAddr,
    pub(crate) state: Mutex<State>,
    pub(crate) stopping: AtomicBool,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) requests: Vec<Request>,
    pub(crate) faults: Vec<ServerFault>,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
