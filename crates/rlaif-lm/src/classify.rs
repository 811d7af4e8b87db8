//! The contract of sequence classifiers and of reward models with a scalar head.

use tch::{Kind, Tensor};

use crate::{
    batch::TokenBatch, error::LmError, forward::Forward, params::Parameters, spec::LmSpec,
};

/// Relation between the labels of a classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelScheme {
    /// Exactly one label applies: probabilities are a softmax over the labels.
    Exclusive,
    /// Labels apply independently: probabilities are sigmoids. Also used for a single label.
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

    /// The labels in the order of the logits, under their names in config.json.
    fn labels(&self) -> &[String];

    /// The relation between the labels.
    fn scheme(&self) -> LabelScheme;

    /// Logits `[B, labels]`, f32. `second_start` has, for each row, the position of the first token
    /// of the second text of a pair, for models with token types; other models ignore it.
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
