//! Files of Hugging Face Hub repositories on this disk.
//!
//! [`Hub`] finds models and data sets in the cache that Python's `huggingface_hub` keeps, and
//! downloads what is missing: at a pinned commit, continued where a transfer broke, checked
//! against the hub's SHA-256, with pauses that honour `Retry-After`. A folder of this disk is
//! opened the same way ([`Hub::open`]). Errors say what is wrong and what to do ([`HubError`]),
//! and never hold the access token.
//!
//! Built on `hf-hub`, whose cache layout, addresses and listing are used; `http.rs` says why the
//! transfer is not.
//!
//! ```no_run
//! use rlaif_hub::{Hub, RepoKind};
//!
//! let hub = Hub::from_env()?;
//! let repo = hub.open(RepoKind::Model, "google/flan-t5-small", None)?;
//! let config = repo.get("config.json")?; // downloads it: needs the network the first time
//! let template = repo.try_get("chat_template.jinja")?; // `None`: it has none
//! println!("{} at {:?}: {config:?} {template:?}", repo.name(), repo.commit()?);
//! # Ok::<(), rlaif_hub::HubError>(())
//! ```

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod cache;
mod download;
mod error;
mod http;
mod hub;
mod kind;
mod progress;
mod repo;
mod token;

pub use error::HubError;
pub use hub::{Hub, HubBuilder, Network};
pub use kind::RepoKind;
pub use progress::{Bars, DownloadProgress, Event, Quiet};
pub use repo::Repo;
pub use rlaif_http::Retry;
