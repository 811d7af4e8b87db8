//! Files and folders that are complete or absent.
//!
//! Everything but a growing file is written to a temporary path next to its target, flushed to the
//! disk and renamed. After a killed process, a full disk or a power cut, a path therefore has the
//! old content or the new one.
//!
//! | what | how |
//! |---|---|
//! | a file with one writer | [`write_aside`], [`write_bytes`], [`write_json`] |
//! | a file that several processes or threads may write | [`write_shared`], [`unique_sibling`] |
//! | a folder | [`replace_folder`] |
//! | a file or link that was written already | [`rename_synced`] |
//! | a folder that one process works in | [`lock_folder`] |
//! | a file that grows by lines | [`open_growing`], cut back to its whole lines by its reader |
//! | the same with one writer, of results as JSON | [`Journal`] |
//! | an SQLite database that several processes share | `DatabaseKind`, with the feature `sqlite` |
//! | the key of a content | [`Digest`] |
//! | a file that is read | [`open_file`], [`read_text`]: no pipe, no device, bounded |

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod aside;
#[cfg(feature = "sqlite")]
mod database;
mod digest;
mod folder;
mod growing;
mod journal;
mod json;
mod regular;

pub use aside::{
    PARTIAL, rename_synced, sibling, sync_folder, unique_sibling, write_aside, write_bytes,
    write_shared,
};
#[cfg(feature = "sqlite")]
pub use database::{CreateTables, DatabaseKind};
pub use digest::{Digest, hex};
pub use folder::replace_folder;
pub use growing::{lock_folder, open_growing};
pub use journal::{Journal, JournalLines};
pub use json::{JsonError, read_json, to_json, write_json};
pub use regular::{is_open_already, kind_of_file, open_file, open_input, read_bytes, read_text};
