//! Errors of [`super::NewProject`].

use std::{io, path::PathBuf};

use rlaif_core::{Fault, FileAction};

/// Reasons why a project cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// The folder exists.
    #[error("{} exists; name another folder, or remove this one", .folder.display())]
    Exists {
        /// The folder.
        folder: PathBuf,
    },
    /// The name is not that of a package.
    #[error(
        "the project's name is that of its folder, `{name}`; expected letters, digits, `-` and `_`, beginning \
         with a letter, and no name of a crate that the project uses or of a folder of cargo"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The folder is not a checkout of rlaif.
    #[error(
        "{} is not a checkout of rlaif: there is no {missing}; name one by --rlaif, after \
         `git clone {repository}`",
        .folder.display()
    )]
    Checkout {
        /// The folder.
        folder: PathBuf,
        /// A file that every checkout has.
        missing: &'static str,
        /// The address of the repository.
        repository: &'static str,
    },
    /// A file cannot be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's message.
        #[source]
        source: io::Error,
    },
    /// A file or folder cannot be written.
    #[error("{}: {source}", .path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's message.
        #[source]
        source: io::Error,
    },
}

impl Fault for ProjectError {
    fn is_users(&self) -> bool {
        match self {
            Self::Exists { .. } | Self::Name { .. } | Self::Checkout { .. } => true,
            Self::Read { source, .. } => FileAction::Read.is_users(source),
            Self::Write { source, .. } => FileAction::Write.is_users(source),
        }
    }
}
