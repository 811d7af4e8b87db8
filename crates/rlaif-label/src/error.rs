//! Errors of labelling.

use std::path::PathBuf;

use rlaif_core::{BadSetting, Fault, RewardError};
use rlaif_rewards::ProviderError;

/// Reasons why labelling failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// A setting out of range, or one that contradicts another.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// A constitution that cannot be read, or has no principles.
    #[error("{}: {problem}", .path.display())]
    Constitution {
        /// The file.
        path: PathBuf,
        /// The fault, and the remedy.
        problem: String,
    },
    /// An unavailable judge or reward.
    #[error("facet `{facet}`: {source}")]
    Provider {
        /// The facet.
        facet: String,
        /// The error.
        #[source]
        source: Box<ProviderError>,
    },
    /// A judge or a reward that failed.
    #[error("facet `{facet}`: {source}")]
    Judge {
        /// The facet.
        facet: String,
        /// The error.
        #[source]
        source: Box<RewardError>,
    },
}

impl Fault for LabelError {
    fn is_users(&self) -> bool {
        match self {
            Self::Setting(error) => error.is_users(),
            Self::Constitution { .. } => true,
            Self::Provider { source, .. } => source.is_users(),
            Self::Judge { source, .. } => source.is_users(),
        }
    }
}
