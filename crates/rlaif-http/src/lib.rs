//! The parts that every client of an HTTP service shares: the hub, judges, reward servers.
//!
//! | part | what it does |
//! |---|---|
//! | [`agent`] | connections with TLS by the system's roots, proxies, time limits, no redirects |
//! | [`post`], [`get`] | one request, and the whole reply or why there is none |
//! | [`Retry`], [`Patience`], [`retry_after`] | when a request is repeated, and when it is given up |
//! | [`Pace`], [`Stop`] | requests and tokens per minute, pauses for all, sleep that can be ended |
//! | [`Secret`] | keys that neither messages nor `Debug` show, and are wiped when they are dropped |
//! | [`Address`], [`shown`], [`shown_url`] | addresses that are checked, and shown without what may be a key |
//!
//! Calls block. What an answer means is the client's to say; nothing here reads a status.
//!
//! ```
//! use std::time::Duration;
//! use rlaif_http::Retry;
//! let retry = Retry { retries: 2, first_pause: Duration::from_millis(100), ..Retry::default() };
//! let mut patience = retry.patience();
//! let pause = patience.pause(Some(Duration::from_secs(1)))?;
//! assert_eq!(pause, Duration::from_secs(1)); // never less than the server asks for
//! # Ok::<(), rlaif_http::GivenUp>(())
//! ```

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod address;
mod agent;
mod pace;
mod post;
mod retry;
mod secret;

pub use address::{Address, BadAddress, is_loopback, shown, shown_url};
pub use agent::{Connections, agent};
pub use pace::{Pace, Stop};
pub use post::{HttpReply, Lost, get, post, post_for};
pub use retry::{GivenUp, Patience, Retry, retry_after};
pub use secret::{BadSecret, EnvVars, Secret, process_environment};
pub use ureq;
