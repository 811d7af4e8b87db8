//! Errors of preference training.

use std::path::PathBuf;

use rlaif_core::{BadSetting, CodecError, Fault, RewardError};
use rlaif_lm::LmError;
use rlaif_rl::RlError;
use rlaif_torch::TorchError;
use rlaif_train::TrainError;

/// Errors that stop preference training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DpoError {
    /// A setting out of bounds.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// A pair that cannot be used, if the settings make that an error.
    #[error("pair `{id}`: {problem}")]
    Pair {
        /// The pair's id.
        id: String,
        /// The fault of the pair.
        problem: PairProblem,
    },
    /// No usable row is left.
    #[error("no usable row is left: {read} were read{skipped}")]
    NoRows {
        /// Rows read.
        read: usize,
        /// Counts of skipped rows, beginning with a comma; empty if there are none.
        skipped: String,
    },
    /// The cache of the reference's log-probabilities cannot be written.
    #[error("the cache of reference log-probabilities, {path}: {source}")]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A model refused its input, or failed.
    #[error(transparent)]
    Lm(#[from] LmError),
    /// The optimizer, a checkpoint or the run's folder failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// A text could not be encoded or decoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The responses of an online batch could not be scored.
    #[error(transparent)]
    Reward(#[from] RewardError),
    /// Sampling failed, or its settings are not those of the checkpoint.
    #[error(transparent)]
    Sampling(RlError),
}

/// For the stages that online DPO shares with reinforcement learning.
impl From<RlError> for DpoError {
    fn from(error: RlError) -> Self {
        match error {
            RlError::Setting(error) => Self::Setting(error),
            RlError::Lm(error) => Self::Lm(error),
            RlError::Train(error) => Self::Train(error),
            RlError::Torch(error) => Self::Torch(error),
            RlError::Codec(error) => Self::Codec(error),
            RlError::Reward(error) => Self::Reward(error),
            other => Self::Sampling(other),
        }
    }
}

impl From<tch::TchError> for DpoError {
    fn from(source: tch::TchError) -> Self {
        Self::Torch(TorchError::from(source))
    }
}

/// For the training loop that all trainers share.
impl From<DpoError> for TrainError {
    fn from(error: DpoError) -> Self {
        match error {
            DpoError::Train(error) => error,
            DpoError::Lm(error) => Self::Lm(error),
            DpoError::Torch(error) => Self::Torch(error),
            DpoError::Setting(error) => Self::Setting(error),
            other => Self::task(other),
        }
    }
}

impl DpoError {
    /// Prefixes the setting's name with `section`, if this is the error of a setting.
    #[must_use]
    pub fn within(self, section: &str) -> Self {
        match self {
            Self::Setting(error) => Self::Setting(error.within(section)),
            Self::Train(error) => Self::Train(error.within(section)),
            other @ (Self::Pair { .. }
            | Self::NoRows { .. }
            | Self::Cache { .. }
            | Self::Lm(_)
            | Self::Torch(_)
            | Self::Codec(_)
            | Self::Reward(_)
            | Self::Sampling(_)) => other,
        }
    }
}

impl Fault for DpoError {
    fn is_users(&self) -> bool {
        match self {
            Self::Setting(error) => error.is_users(),
            Self::Pair { problem, .. } => problem.is_users(),
            Self::NoRows { .. } => true,
            Self::Cache { .. } => false,
            Self::Lm(error) => error.is_users(),
            Self::Train(error) => error.is_users(),
            Self::Torch(error) => error.is_users(),
            Self::Codec(error) => error.is_users(),
            Self::Reward(error) => error.is_users(),
            Self::Sampling(error) => error.is_users(),
        }
    }
}

impl Fault for PairProblem {
    fn is_users(&self) -> bool {
        true
    }
}

/// Reasons why a pair, or a single response, cannot be used for training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum PairProblem {
    /// Both responses are the same.
    #[error("chosen and rejected are the same; a pair needs two different responses")]
    Identical,
    /// A response without a token.
    #[error("a response is empty")]
    EmptyResponse,
    /// A prompt without a token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// More tokens than the limit.
    #[error(
        "{length} tokens exceed the limit of {limit}; raise the limit, or set too_long = \
         \"truncate\" or \"skip\""
    )]
    TooLong {
        /// Tokens of prompt and longer response, or of the part that is too long by itself.
        length: usize,
        /// The limit, in tokens.
        limit: usize,
    },
    /// The tokens of the prompt are not the first tokens of prompt and response.
    #[error(
        "the prompt's tokens are not a prefix of the tokens of prompt and response: tokens merge \
         across the boundary; end the prompt where a token ends, or set boundary = \"merge\", \
         \"apart\" or \"skip\""
    )]
    NotAPrefix,
    /// A missing margin that the loss needs.
    #[error("the loss needs a margin, and this pair has none; name the column of margins")]
    NoMargin,
    /// A missing mismatched response that KTO needs.
    #[error("the loss also needs a response to another prompt")]
    NoMismatch,
}
