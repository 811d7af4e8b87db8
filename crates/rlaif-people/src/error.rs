//! Errors of studies.

use std::path::PathBuf;

use rlaif_core::{BadSetting, Fault, FileAction};
use rlaif_data::DataError;
use rlaif_eval::EvalError;

/// Reasons why a study cannot be read, changed or exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeopleError {
    /// A setting out of range.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// A file of items or answers that cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A report of an evaluation that cannot be read.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// SQLite failed.
    #[error("cannot {action} the study {}: {source}", .path.display())]
    Store {
        /// The attempt.
        action: &'static str,
        /// The study's file.
        path: PathBuf,
        /// SQLite's message.
        #[source]
        source: rusqlite::Error,
    },
    /// A file that cannot be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// The operation.
        action: FileAction,
        /// The file.
        path: PathBuf,
        /// The operating system's message.
        #[source]
        source: std::io::Error,
    },
    /// A file that exists and is not a study of this layout.
    #[error(
        "{} is {found}, not a study of layout {expected}; name another file, or read the study with the \
         version that wrote it", .path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The content found.
        found: String,
        /// The layout of this version.
        expected: i64,
    },
    /// A study that does not exist.
    #[error("{} does not exist; `rlaif annotate add {} FILE` creates it", .path.display(), .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A study whose file was moved, deleted or replaced while it was open.
    #[error(
        "{} was moved, deleted or replaced while it was open, so nothing is written; move it back, or start \
         again with its new name", .path.display()
    )]
    Moved {
        /// The path that was opened.
        path: PathBuf,
    },
    /// A row of a file that cannot be used.
    #[error("{source_name}, row {row}: {problem}")]
    Row {
        /// The file.
        source_name: String,
        /// The row, from 1.
        row: usize,
        /// The fault, and the remedy.
        problem: String,
    },
    /// Two items with one id and different texts.
    #[error("item `{id}` is in the study with {what}; give the new item another `id`")]
    OtherItem {
        /// The id.
        id: String,
        /// The difference.
        what: &'static str,
    },
    /// A name or token of an annotator that the study does not have.
    #[error("no annotator has {what}; `rlaif annotate people` lists them")]
    NoAnnotator {
        /// The name or token, as it may be shown.
        what: String,
    },
    /// An item that the study does not have.
    #[error("the study has no item {id}")]
    NoItem {
        /// The item.
        id: String,
    },
    /// An answer to an item that this annotator has answered already.
    #[error("item `{id}` has an answer by this annotator; undo it first")]
    Answered {
        /// The item.
        id: String,
    },
    /// An answer to an item that this annotator was never given.
    #[error("item number {number} was not given to this annotator; ask for the next one")]
    NotGiven {
        /// The item's number.
        number: i64,
    },
    /// An answer that does not fit its item.
    #[error("the answer's {0}")]
    Answer(BadSetting),
    /// A system without a source of random bytes.
    #[error("the system has no random bytes for a token: {0}")]
    Random(String),
}

impl Fault for PeopleError {
    fn is_users(&self) -> bool {
        match self {
            Self::Setting(error) | Self::Answer(error) => error.is_users(),
            Self::Data(error) => error.is_users(),
            Self::Eval(error) => error.is_users(),
            Self::Io { action, source, .. } => action.is_users(source),
            Self::Store { .. } | Self::Random(_) => false,
            Self::Foreign { .. }
            | Self::Missing { .. }
            | Self::Moved { .. }
            | Self::Row { .. }
            | Self::OtherItem { .. }
            | Self::NoAnnotator { .. }
            | Self::NoItem { .. }
            | Self::Answered { .. }
            | Self::NotGiven { .. } => true,
        }
    }
}
