//! Errors between an algorithm and a model.

use std::path::PathBuf;

use rlaif_core::{BadSetting, CodecError, Fault, Interrupted};
use rlaif_torch::TorchError;

use crate::concern::RolloutConcern;

/// Errors of running a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LmError {
    /// A sequence without a token.
    #[error("row {row} of the batch has no token; a model needs at least one (drop empty texts)")]
    EmptyInput {
        /// Row of the batch.
        row: usize,
    },
    /// A batch without a row.
    #[error("the batch has no rows")]
    EmptyBatch,
    /// A token id that the embedding has no row for.
    #[error(
        "row {row}, position {position}: token id {id} is outside the vocabulary of {vocab_size}; \
         the tokenizer does not belong to this model"
    )]
    IdOutOfRange {
        /// Row of the batch.
        row: usize,
        /// Position in the sequence, from 0.
        position: usize,
        /// The id found.
        id: u32,
        /// Ids must be smaller.
        vocab_size: i64,
    },
    /// A sequence longer than the model's positions.
    #[error(
        "row {row} has {length} tokens, but the model's context is {context}; shorten the prompt \
         or the response"
    )]
    TooLong {
        /// Row of the batch.
        row: usize,
        /// The number of tokens, of prompt and response together where the limit includes both.
        length: usize,
        /// The model's limit.
        context: usize,
    },
    /// Two batches that should describe the same rows do not.
    #[error("{what}: expected {expected} rows, found {found}")]
    BatchMismatch {
        /// Names of the batches.
        what: &'static str,
        /// Rows expected.
        expected: usize,
        /// Rows found.
        found: usize,
    },
    /// A response that cannot start over there ([`TokenBatch::forked`](crate::TokenBatch::forked)).
    #[error("row {row}: the response starts over at tokens {found:?}; expected {expected}")]
    Forks {
        /// Row of the batch.
        row: usize,
        /// The indices found.
        found: Vec<usize>,
        /// The expected indices or model.
        expected: String,
    },
    /// An adapter that was never loaded.
    #[error("no adapter named `{name}` is loaded; loaded: {}", list(.loaded))]
    UnknownAdapter {
        /// The name asked for.
        name: String,
        /// The names there are.
        loaded: Vec<String>,
    },
    /// While an adapter is merged into the weights, the plain weights and other adapters are out of
    /// reach.
    #[error(
        "an adapter is merged into the weights; unmerge it before running without it or with \
         another"
    )]
    AdapterMerged,
    /// An encoder-decoder model was called with a decode state without encoder memory.
    #[error("the decode state has no encoder memory; it belongs to a decoder-only model")]
    NoMemory,
    /// A row has more tokens than the cache was made for.
    #[error("row {row} has no room for another token: its cache has a capacity of {capacity}")]
    CacheFull {
        /// Row of the batch.
        row: usize,
        /// Tokens that each row has room for.
        capacity: usize,
    },
    /// The keys and values of a batch exceed this machine's memory.
    #[error(
        "a batch of {rows} rows of {tokens} tokens needs {bytes} bytes of keys and values, and \
         {available} are available; use a smaller batch or fewer tokens"
    )]
    BatchTooLarge {
        /// Rows that decode together.
        rows: usize,
        /// Tokens of each.
        tokens: usize,
        /// Bytes of their keys and values.
        bytes: u64,
        /// Bytes that the system could give.
        available: u64,
    },
    /// Logits that are not numbers.
    #[error(
        "the logits of {} are not finite at response token {token}; the weights or the \
         activations have overflowed or are damaged", row_of(*row, named.as_deref())
    )]
    NotFinite {
        /// Row of the input.
        row: usize,
        /// The row as the user knows it, where the caller said so ([`LmError::in_row`]).
        named: Option<String>,
        /// The response token they should have predicted, from 0.
        token: usize,
    },
    /// No token is left to choose from.
    #[error(
        "row {row}, response token {token}: every token of the vocabulary is forbidden; forbid \
         fewer, or lower min_new_tokens"
    )]
    NothingAllowed {
        /// Row of the input.
        row: usize,
        /// The response token that was to be chosen, from 0.
        token: usize,
    },
    /// A setting of generation that cannot be.
    #[error("generation: {0}")]
    Setting(#[from] BadSetting),
    /// A setting of generation that breaks training on the responses.
    #[error("rollout: `{setting}` {0}", setting = .0.setting())]
    UnfitForRollout(#[source] RolloutConcern),
    /// A sampler outside this process failed.
    #[error("the sampler `{sampler}` failed: {source}")]
    Sampler {
        /// The sampler.
        sampler: String,
        /// The error message.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of recorded responses that cannot be read.
    #[error("the recorded responses in {}: {problem}", .path.display())]
    Recording {
        /// The file.
        path: PathBuf,
        /// The fault found.
        problem: String,
    },
    /// More responses were asked for than were recorded.
    #[error("{recorded} responses were recorded, but response {asked} is requested")]
    RecordingEnded {
        /// Responses recorded.
        recorded: usize,
        /// Responses asked for so far.
        asked: usize,
    },
    /// Stop strings are found in text, and there was no tokenizer to make text with.
    #[error("generation: `stop_strings` needs a tokenizer, and none was given")]
    NoCodec,
    /// The tokenizer could not decode a response.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The caller's listener asked to stop.
    #[error("generation was interrupted")]
    Interrupted,
    /// The user asked for the end, by Ctrl-C.
    #[error("{0}")]
    Asked(#[from] Interrupted),
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] TorchError),
}

impl From<tch::TchError> for LmError {
    fn from(source: tch::TchError) -> Self {
        Self::Torch(TorchError::from(source))
    }
}

fn row_of(row: usize, named: Option<&str>) -> String {
    named.map_or_else(|| format!("row {row}"), str::to_owned)
}

impl LmError {
    /// Logits of a row that are not numbers, at a token of its response.
    pub fn not_finite(row: usize, token: usize) -> Self {
        Self::NotFinite { row, named: None, token }
    }

    /// The same error with its row named as the user knows it, for example by its record
    /// ([`crate::place`]). An error that names it already, or has no row, is unchanged.
    ///
    /// ```
    /// use rlaif_lm::LmError;
    /// let error = LmError::not_finite(2, 0).in_row(|row| format!("line {}", row + 1));
    /// assert!(error.to_string().starts_with("the logits of line 3 are not finite"));
    /// ```
    #[must_use]
    pub fn in_row(mut self, place: impl FnOnce(usize) -> String) -> Self {
        if let Self::NotFinite { row, named, .. } = &mut self
            && named.is_none()
        {
            *named = Some(place(*row));
        }
        self
    }
}

impl Fault for LmError {
    fn is_users(&self) -> bool {
        match self {
            // Texts, a tokenizer or settings that do not fit the model.
            Self::EmptyInput { .. }
            | Self::EmptyBatch
            | Self::IdOutOfRange { .. }
            | Self::TooLong { .. }
            | Self::UnknownAdapter { .. }
            | Self::NothingAllowed { .. }
            | Self::NoCodec => true,
            Self::Setting(error) => error.is_users(),
            Self::UnfitForRollout(error) => error.is_users(),
            Self::Codec(error) => error.is_users(),
            // The caller's code.
            Self::BatchMismatch { .. }
            | Self::Forks { .. }
            | Self::AdapterMerged
            | Self::NoMemory
            | Self::CacheFull { .. } => false,
            // This machine, or weights that overflow on it.
            Self::BatchTooLarge { .. }
            | Self::NotFinite { .. }
            | Self::Interrupted
            | Self::Asked(_) => false,
            // Another program; or a file that was named.
            Self::Sampler { .. } => false,
            Self::Recording { .. } | Self::RecordingEnded { .. } => true,
            Self::Torch(error) => error.is_users(),
        }
    }
}

impl Fault for RolloutConcern {
    fn is_users(&self) -> bool {
        true
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
