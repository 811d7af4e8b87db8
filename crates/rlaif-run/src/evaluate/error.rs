//! Reasons why an evaluation stopped.

use std::path::PathBuf;

use rlaif_core::{BadSetting, CodecError, Fault};
use rlaif_data::DataError;
use rlaif_eval::EvalError;
use rlaif_lm::LmError;
use rlaif_models::ModelError;
use rlaif_rewards::ProviderError;
use rlaif_text::TextError;
use rlaif_torch::TorchError;

use crate::{FetchError, OtherVocabulary};

/// Reasons why an evaluation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// There are no prompts.
    #[error("there are no prompts to evaluate on; check the filters and the split of the data")]
    NoPrompts,
    /// Two prompts share an id.
    #[error(
        "two prompts have the id `{id}`; ids tell prompts apart, so leave one of them out \
         (`Dataset::deduplicate`)"
    )]
    DuplicatePrompt {
        /// The id.
        id: String,
    },
    /// A metric that compares with a reference response, but prompts without one.
    #[error(
        "metric `{metric}` compares with a reference response, and {without} of {prompts} prompts \
         have none (the first: `{id}`); name their column (`data.reference_column`), or leave the metric out"
    )]
    NoReference {
        /// The metric.
        metric: String,
        /// Prompts without a reference.
        without: usize,
        /// Number of prompts.
        prompts: usize,
        /// The id of the first such prompt.
        id: String,
    },
    /// A policy could not generate a response or compute its probability.
    #[error("policy `{policy}` failed: {source}")]
    Policy {
        /// The policy.
        policy: String,
        /// The error.
        #[source]
        source: LmError,
    },
    /// A response whose probability is NaN.
    #[error(
        "policy `{policy}` gives its response to prompt `{prompt}` the log-probability {found}; its \
         weights hold NaN or infinity, or its activations overflow (`dtype = \"f16\"` above all)"
    )]
    LogProb {
        /// The policy.
        policy: String,
        /// The id of the prompt.
        prompt: String,
        /// The number.
        found: f64,
    },
    /// Another process evaluates in the folder.
    #[error("{} is in use by another evaluation; wait for its end, or choose another folder", .folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder holds the responses of another evaluation.
    #[error(
        "{} holds the responses of another evaluation ({}); choose another folder, or remove the \
         file", .path.display(), .differences.join(", ")
    )]
    OtherEvaluation {
        /// The file with the responses.
        path: PathBuf,
        /// Other settings that affect the responses, with both values.
        differences: Vec<String>,
    },
    /// A damaged file of responses.
    #[error("{}, line {line}: {source}; remove the file to start over", .path.display())]
    Responses {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The fault found.
        #[source]
        source: serde_json::Error,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's message.
        #[source]
        source: std::io::Error,
    },
    /// A setting is missing or invalid.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// Measuring, comparing or writing failed.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The prompts are unavailable.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A reward or judge could not be made.
    #[error(transparent)]
    Reward(#[from] ProviderError),
    /// A model's files are unavailable.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A model could not be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tokenizer could not be read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Perplexity of one model's ids under another that reads them differently.
    #[error(transparent)]
    OtherVocabulary(#[from] Box<OtherVocabulary>),
    /// A tokenizer failed.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A device is not there.
    #[error(transparent)]
    Torch(#[from] TorchError),
}

impl Fault for EvaluateError {
    fn is_users(&self) -> bool {
        match self {
            Self::NoPrompts
            | Self::DuplicatePrompt { .. }
            | Self::NoReference { .. }
            | Self::OtherEvaluation { .. }
            | Self::Responses { .. }
            | Self::Setting { .. } => true,
            Self::Policy { source, .. } => source.is_users(),
            // The same command succeeds when the other process has ended.
            Self::Busy { .. } => false,
            Self::LogProb { .. } | Self::File { .. } => false,
            Self::Eval(error) => error.is_users(),
            Self::Data(error) => error.is_users(),
            Self::Reward(error) => error.is_users(),
            Self::Fetch(error) => error.is_users(),
            Self::Model(error) => error.is_users(),
            Self::Text(error) => error.is_users(),
            Self::OtherVocabulary(error) => error.is_users(),
            Self::Codec(error) => error.is_users(),
            Self::Torch(error) => error.is_users(),
        }
    }
}
