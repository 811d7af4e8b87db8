//! Why labels could not be made.

use rlaif_core::{Fault, RewardError};
use rlaif_rewards::ProviderError;

/// Why labels could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// A setting that cannot be.
    #[error("`{setting}` is {found}; expected {expected}")]
    Setting {
        /// The setting, with dots.
        setting: String,
        /// Its value.
        found: String,
        /// The values it may have.
        expected: String,
    },
    /// A judge or a reward that cannot be had.
    #[error("facet `{facet}`: {source}")]
    Provider {
        /// The facet.
        facet: String,
        /// Why.
        #[source]
        source: Box<ProviderError>,
    },
    /// A judge or a reward that failed.
    #[error("facet `{facet}`: {source}")]
    Judge {
        /// The facet.
        facet: String,
        /// Why.
        #[source]
        source: Box<RewardError>,
    },
}

impl Fault for LabelError {
    fn is_users(&self) -> bool {
        match self {
            Self::Setting { .. } => true,
            Self::Provider { source, .. } => source.is_users(),
            Self::Judge { source, .. } => source.is_users(),
        }
    }
}
