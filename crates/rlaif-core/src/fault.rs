//! The party at fault for an error, which decides the exit code of a command.

use std::{
    error::Error,
    fmt,
    io::{self, ErrorKind},
};

use crate::{BadSetting, CodecError, MetricError, NonFinite, RewardError};

/// Distinguishes the user's mistakes from failures of the machine.
///
/// A command's exit code is 2 if the user must change the input, and 1 if the same input may
/// succeed on another machine or at another time. Each error type implements this in its own crate,
/// by a `match` without a wildcard, so that a new variant does not compile before the decision is
/// made.
///
/// ```
/// use rlaif_core::{BadSetting, Fault, MetricError};
/// assert!(BadSetting::new("lr", -1., "a positive number").is_users());
/// assert!(!MetricError::new("metrics.jsonl", "disk full").is_users());
/// ```
pub trait Fault {
    /// `true` if the user's input (settings, names, files, data) is the cause; `false` if the
    /// machine, the network or the program is.
    fn is_users(&self) -> bool;
}

impl<F: Fault + ?Sized> Fault for Box<F> {
    fn is_users(&self) -> bool {
        (**self).is_users()
    }
}

/// The message of an error, followed by those of its causes that it does not repeat.
///
/// ```
/// use rlaif_core::MetricError;
/// let error = MetricError::new("metrics.jsonl", "disk full");
/// assert!(rlaif_core::with_causes(&error).ends_with("disk full"));
/// ```
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !told.contains(&said) {
            told = format!("{told}: {said}");
        }
        cause = error.source();
    }
    told
}

/// The operation on a file that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAction {
    /// Reading an input, or what an earlier command wrote.
    Read,
    /// Opening a file of the program's own.
    Open,
    /// Creating a file.
    Create,
    /// Writing.
    Write,
}

impl FileAction {
    /// `true` if the user's input is the cause of this error: see [`is_bad_input_file`].
    #[must_use]
    pub fn is_users(self, error: &io::Error) -> bool {
        match self {
            Self::Read => is_bad_input_file(error),
            Self::Open | Self::Create | Self::Write => false,
        }
    }
}

impl fmt::Display for FileAction {
    /// `read`, `open`, `create` or `write`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Open => "open",
            Self::Create => "create",
            Self::Write => "write",
        })
    }
}

/// Decides on an error of reading a file that the user named: true if the name or the content is
/// wrong, false if the disk or its permissions are.
///
/// Only for inputs. An error of writing is always the machine's.
///
/// ```
/// use std::io::{Error, ErrorKind};
/// assert!(rlaif_core::is_bad_input_file(&Error::from(ErrorKind::NotFound)));
/// assert!(!rlaif_core::is_bad_input_file(&Error::from(ErrorKind::PermissionDenied)));
/// ```
#[must_use]
pub fn is_bad_input_file(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        // The name.
        ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
            // The content: no UTF-8, or truncated.
            | ErrorKind::InvalidData
            | ErrorKind::UnexpectedEof
    )
}

impl Fault for BadSetting {
    fn is_users(&self) -> bool {
        true
    }
}

impl Fault for NonFinite {
    /// A score that is not finite comes from a model or a program.
    fn is_users(&self) -> bool {
        false
    }
}

impl Fault for MetricError {
    fn is_users(&self) -> bool {
        false
    }
}

impl Fault for CodecError {
    fn is_users(&self) -> bool {
        match self {
            // Tokenizers and templates are files that the user named, and the texts are theirs.
            Self::Tokenizer { .. }
            | Self::ChatTemplate { .. }
            | Self::NoChatTemplate { .. }
            | Self::Conversation { .. } => true,
        }
    }
}

impl Fault for RewardError {
    fn is_users(&self) -> bool {
        match self {
            // Another configuration of rewards than the checkpoint's.
            Self::State { .. } => true,
            // A reward that breaks its contract, or a server that cannot be reached.
            Self::Count { .. }
            | Self::NonFinite { .. }
            | Self::Failed { .. }
            | Self::Interrupted { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_input_is_the_users_and_a_full_disk_is_not() {
        for (kind, users) in [
            (ErrorKind::NotFound, true),
            (ErrorKind::InvalidData, true),
            (ErrorKind::StorageFull, false),
            (ErrorKind::ReadOnlyFilesystem, false),
            (ErrorKind::PermissionDenied, false),
            (ErrorKind::Interrupted, false),
        ] {
            assert_eq!(is_bad_input_file(&io::Error::from(kind)), users, "{kind:?}");
        }
    }

    #[test]
    fn a_box_is_as_its_content() {
        let boxed: Box<dyn Fault> = Box::new(BadSetting::new("n", 0, "at least 1"));
        assert!(boxed.is_users());
    }
}
