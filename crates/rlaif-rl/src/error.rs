//! Errors of reinforcement learning.

use rlaif_core::{BadSetting, CodecError, Fault, RewardError};
use rlaif_lm::{LmError, generate::RolloutConcern};
use rlaif_torch::TorchError;
use rlaif_train::TrainError;

use crate::concern::CombinationConcern;

/// Reasons why a step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RlError {
    /// A setting out of range, or two incompatible settings.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// A setting of generation that is not suitable for training on the responses.
    #[error("`{table}.{}` {source}", .source.setting())]
    Rollout {
        /// The table of the setting, `generation` with the sections around it.
        table: String,
        /// The concern.
        source: RolloutConcern,
    },
    /// A combination of settings that is known to be wrong.
    #[error("`{setting}` {0}", setting = .0.setting())]
    Combination(#[source] CombinationConcern),
    /// A batch of another size than `batch_size`.
    #[error(
        "{what}: expected {expected} rows (`batch_size`), found {found}; give exactly one for each \
         row of the batch"
    )]
    Rows {
        /// The rows whose number is wrong.
        what: &'static str,
        /// `batch_size`.
        expected: usize,
        /// The number found.
        found: usize,
    },
    /// A response without a token: no token could carry its score.
    #[error("response {row} has no token; a response has at least one, EOS included")]
    EmptyResponse {
        /// Row of the batch, from 0.
        row: usize,
    },
    /// A score that is not a number.
    #[error("score {row} is {found}; expected a finite number")]
    Score {
        /// Row of the batch, from 0.
        row: usize,
        /// The value found.
        found: f64,
    },
    /// A response without a score, where `scores.missing` is `error`.
    #[error(
        "reward `{reward}` gave {} no score: {reason}; set `scores.missing` (in a run \
         file `ppo.scores.missing`, with --resume as well) to `drop` or to a value to continue \
         without one", response_to(*row, named.as_deref())
    )]
    NoScore {
        /// The reward model.
        reward: String,
        /// Row of the batch, from 0.
        row: usize,
        /// The record of the prompt, where it is known ([`RlError::in_row`]).
        named: Option<String>,
        /// The reason for the missing score.
        reason: String,
    },
    /// A frozen model or a value function whose numbers for a row contain NaN or infinity.
    #[error(
        "the {model}'s numbers for the response to {row} are not finite; its weights are damaged, or \
         its activations overflow (f16 above all: try bf16 or f32)"
    )]
    NotFinite {
        /// The model.
        model: &'static str,
        /// The record of the prompt.
        row: String,
    },
    /// No response of the batch has a score.
    #[error(
        "reward `{reward}` gave none of the batch's responses a score, so there is nothing to train on; \
         the first reason: {reason}"
    )]
    NothingScored {
        /// The reward model.
        reward: String,
        /// The reason for the first missing score.
        reason: String,
    },
    /// Log-probabilities of a sampler that are not one for each token of its response.
    #[error(
        "the sampler gave {found} log-probabilities for the {expected} tokens of response {row}; give \
         one for each token, or none at all (`Sampled::log_probs`)"
    )]
    SamplerLogProbs {
        /// Row of the batch, from 0.
        row: usize,
        /// Tokens of the response.
        expected: usize,
        /// Log-probabilities found.
        found: usize,
    },
    /// Responses of earlier weights without the log-probabilities of their sampler.
    #[error(
        "the responses are up to {staleness} update(s) old, and the sampler gave no log-probabilities, which their \
         correction needs; give them (`Sampled::log_probs`), or sample each rollout for its own step"
    )]
    StaleWithoutLogProbs {
        /// Updates since the oldest response was sampled.
        staleness: u64,
    },
    /// A rollout without the values that an estimate needs.
    #[error("the rollout has no values; this estimate of advantages needs a value function")]
    NoValues,
    /// A rollout without the scores of greedy responses that an estimate needs.
    #[error(
        "there are no scores of greedy responses, one for each row; this estimate of advantages \
         compares responses with the greedy one"
    )]
    NoGreedy,
    /// Scores without the steps that an estimate needs.
    #[error(
        "response {row} has a score, but none for its steps; this estimate of advantages needs a reward \
         that scores steps (`kind = \"process\"`) as the outermost one"
    )]
    NoSteps {
        /// Row of the batch, from 0.
        row: usize,
    },
    /// A sampler that cannot tell which tokens are the text of a step.
    #[error(
        "the sampler cannot tell the tokens of a step; implement `Sampler::tokens_before`, or sample in \
         this process"
    )]
    NoTokensOfSteps,
    /// A rollout of another step.
    #[error(
        "the rollout is of step {found}, but the trainer is at step {expected}; update with a \
         rollout once, before the next"
    )]
    StaleRollout {
        /// The trainer's step.
        expected: u64,
        /// The rollout's.
        found: u64,
    },
    /// A tensor of a rollout, or of its advantages, that does not have one number per token.
    #[error(
        "`{what}` has shape {found:?}; expected {expected:?}, a number for each token of the \
         rollout's responses"
    )]
    Shape {
        /// The field.
        what: &'static str,
        /// `[B, T]`.
        expected: [i64; 2],
        /// The shape found.
        found: Vec<i64>,
    },
    /// An order that names a row which the rollout does not have.
    #[error("`orders` of the rollout: epoch {epoch} takes row {row}; expected rows below {rows}")]
    Order {
        /// The epoch, from 0.
        epoch: usize,
        /// The row.
        row: usize,
        /// The number found.
        rows: usize,
    },
    /// A checkpoint that does not fit this trainer.
    #[error("the checkpoint does not fit: {what}: expected {expected}, found {found}")]
    State {
        /// The part of the state.
        what: String,
        /// The value of this trainer.
        expected: String,
        /// The value in the checkpoint.
        found: String,
    },
    /// The policy, the reference or the value model failed.
    #[error(transparent)]
    Lm(#[from] LmError),
    /// The reward model failed.
    #[error(transparent)]
    Reward(#[from] RewardError),
    /// The tokenizer failed.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The optimizer failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] TorchError),
}

fn response_to(row: usize, named: Option<&str>) -> String {
    match named {
        Some(record) => format!("the response to {record}"),
        None => format!("response {row}"),
    }
}

impl RlError {
    /// A setting of generation that is not suitable for training on the responses.
    pub fn rollout(source: RolloutConcern) -> Self {
        Self::Rollout { table: "generation".to_owned(), source }
    }

    /// No response of a batch has a score, and why, by row ([`rlaif_core::Scores::reasons`]).
    pub fn nothing_scored(reward: &str, reasons: &[(usize, String)]) -> Self {
        let reason = reasons.first().map(|(_, reason)| reason.clone());
        Self::NothingScored {
            reward: reward.to_owned(),
            reason: reason.unwrap_or_else(|| "it tells none".to_owned()),
        }
    }

    /// The same error with the row of the batch named by its record, if it has a row without a name.
    #[must_use]
    pub fn in_row(self, place: impl FnOnce(usize) -> String) -> Self {
        match self {
            Self::NoScore { reward, row, named: None, reason } => {
                Self::NoScore { reward, row, named: Some(place(row)), reason }
            }
            Self::Reward(error) => Self::Reward(error.in_row(place)),
            Self::Lm(error) => Self::Lm(error.in_row(place)),
            other => other,
        }
    }

    /// The same error with `section` before the setting's name, if it is one of a setting.
    #[must_use]
    pub fn within(self, section: &str) -> Self {
        match self {
            Self::Setting(error) => Self::Setting(error.within(section)),
            Self::Train(error) => Self::Train(error.within(section)),
            Self::Rollout { table, source } => {
                Self::Rollout { table: format!("{section}.{table}"), source }
            }
            other @ (Self::Combination(_)
            | Self::Rows { .. }
            | Self::EmptyResponse { .. }
            | Self::Score { .. }
            | Self::NoScore { .. }
            | Self::NotFinite { .. }
            | Self::NothingScored { .. }
            | Self::SamplerLogProbs { .. }
            | Self::StaleWithoutLogProbs { .. }
            | Self::NoValues
            | Self::NoGreedy
            | Self::NoSteps { .. }
            | Self::NoTokensOfSteps
            | Self::StaleRollout { .. }
            | Self::Shape { .. }
            | Self::Order { .. }
            | Self::State { .. }
            | Self::Lm(_)
            | Self::Reward(_)
            | Self::Codec(_)
            | Self::Torch(_)) => other,
        }
    }
}

impl Fault for RlError {
    fn is_users(&self) -> bool {
        match self {
            Self::Setting(error) => error.is_users(),
            Self::Rollout { source, .. } => source.is_users(),
            Self::Combination(_) => true,
            // A reward without scores where settings demand them, or another run's checkpoint.
            Self::NoScore { .. } | Self::State { .. } | Self::NoSteps { .. } => true,
            // A whole batch without a score is a fault of the service behind the reward, not of the
            // input.
            Self::NothingScored { .. } => false,
            // Of the model, or of its dtype.
            Self::NotFinite { .. } => false,
            // Faults of the caller's own loop.
            Self::Rows { .. }
            | Self::EmptyResponse { .. }
            | Self::Score { .. }
            | Self::StaleRollout { .. }
            | Self::Shape { .. }
            | Self::Order { .. }
            | Self::SamplerLogProbs { .. }
            | Self::StaleWithoutLogProbs { .. }
            | Self::NoValues
            | Self::NoTokensOfSteps
            | Self::NoGreedy => false,
            Self::Lm(error) => error.is_users(),
            Self::Reward(error) => error.is_users(),
            Self::Codec(error) => error.is_users(),
            Self::Train(error) => error.is_users(),
            Self::Torch(error) => error.is_users(),
        }
    }
}

/// For the loop that trainings share.
impl From<RlError> for TrainError {
    fn from(error: RlError) -> Self {
        match error {
            RlError::Train(error) => error,
            RlError::Lm(error) => Self::Lm(error),
            RlError::Torch(error) => Self::Torch(error),
            other => Self::task(other),
        }
    }
}
