//! The contract of sequence classifiers and of reward models with a scalar head.

use tch::{Kind, Tensor};

use crate::{
    batch::TokenBatch, error::LmError, forward::Forward, params::Parameters, spec::LmSpec,
};

/// How the labels of a classifier stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelScheme {
    /// Exactly one holds: probabilities are a softmax over the labels.
    Exclusive,
    /// Each holds or not: probabilities are sigmoids. Also said of a single label.
    Independent,
}

impl LabelScheme {
    /// Probabilities `[B, labels]` of logits `[B, labels]`.
    pub fn probabilities(self, logits: &Tensor) -> Tensor {
        match self {
            Self::Exclusive => logits.softmax(-1, Kind::Float),
            Self::Independent => logits.to_kind(Kind::Float).sigmoid(),
        }
    }
}

/// A model that gives each sequence one logit per label.
pub trait SequenceClassifier: Send {
    /// Sizes, limits and special tokens.
    fn spec(&self) -> &LmSpec;

    /// The labels in the order of the logits, by the names that config.json gives them.
    fn labels(&self) -> &[String];

    /// How they stand to each other.
    fn scheme(&self) -> LabelScheme;

    /// Logits `[B, labels]`, f32. `second_start` holds, per row, the position from which tokens
    /// belong to the second text of a pair, for models that tell the two apart; others ignore it.
    ///
    /// # Errors
    /// [`LmError::TooLong`], [`LmError::BatchMismatch`], [`LmError::UnknownAdapter`].
    fn logits(
        &self,
        input: &TokenBatch,
        second_start: Option<&[usize]>,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError>;

    /// The parameters, adapters included.
    fn parameters(&self) -> &Parameters;
}
