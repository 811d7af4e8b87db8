//! What can go wrong between an algorithm and a model.

use rlaif_torch::TorchError;

/// Why a model could not be run.
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
        /// Its tokens, prompt and response together where both count.
        length: usize,
        /// The model's limit.
        context: usize,
    },
    /// Two batches that should describe the same rows do not.
    #[error("{what}: expected {expected} rows, found {found}")]
    BatchMismatch {
        /// Which batches.
        what: &'static str,
        /// Rows expected.
        expected: usize,
        /// Rows found.
        found: usize,
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
    /// An encoder-decoder model was asked to go on with a state that no encoder made.
    #[error("the decode state holds no encoder memory; it belongs to a decoder-only model")]
    NoMemory,
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] TorchError),
}

impl From<tch::TchError> for LmError {
    fn from(source: tch::TchError) -> Self {
        Self::Torch(TorchError::from(source))
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
