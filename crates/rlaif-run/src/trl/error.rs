//! Errors of [`super::ImportTrl`].

use std::{io, path::PathBuf};

use rlaif_core::{Fault, FileAction};

/// Reasons why a configuration of TRL cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrlError {
    /// The file cannot be read.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's message.
        #[source]
        source: io::Error,
    },
    /// The run file exists.
    #[error("{} exists, and may have been edited; name another file, or remove this one", .path.display())]
    Exists {
        /// The run file.
        path: PathBuf,
    },
    /// The run file cannot be written.
    #[error("{}: {source}", .path.display())]
    Write {
        /// The run file.
        path: PathBuf,
        /// The system's message.
        #[source]
        source: io::Error,
    },
    /// The text is not a configuration.
    #[error("{file}: {message}; expected the JSON or YAML of a script's configuration")]
    Syntax {
        /// The file.
        file: String,
        /// The parser's message, with the place.
        message: String,
    },
    /// A field that TRL's classes do not have.
    #[error(
        "{file}: unknown field `{field}`{}; expected a field of {class}, ModelConfig or \
         ScriptArguments; remove it, or name the right trainer",
        .nearest.map_or(String::new(), |name| format!(" (did you mean `{name}`?)"))
    )]
    Unknown {
        /// The file.
        file: String,
        /// The field.
        field: String,
        /// The nearest known field.
        nearest: Option<&'static str>,
        /// TRL's class.
        class: &'static str,
    },
    /// A value that TRL would not accept, or that no run file can express.
    #[error("{file}: `{field}`: found {found}, expected {expected}")]
    Value {
        /// The file.
        file: String,
        /// The field.
        field: String,
        /// The value, as JSON.
        found: String,
        /// The expected values.
        expected: String,
    },
}

impl Fault for TrlError {
    fn is_users(&self) -> bool {
        match self {
            Self::File { source, .. } => FileAction::Read.is_users(source),
            Self::Write { source, .. } => FileAction::Write.is_users(source),
            Self::Exists { .. }
            | Self::Syntax { .. }
            | Self::Unknown { .. }
            | Self::Value { .. } => true,
        }
    }
}
