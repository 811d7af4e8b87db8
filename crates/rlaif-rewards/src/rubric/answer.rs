//! The form of a judge's answer, its scale, and its content.

use rlaif_core::Score;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The lowest and the highest verdict that a judge may give.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// The worst verdict.
    pub low: f64,
    /// The best verdict.
    pub high: f64,
}

/// The form of a judge's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerForm {
    /// A number alone.
    #[default]
    Number,
    /// A number, then a short justification.
    NumberThenReason,
    /// JSON with a justification and a number; the API enforces its schema.
    Json,
    /// The expectation Σ i·P(i) over the whole numbers i of the scale, from the log-probs of the
    /// answer's first number (direct RLAIF, Lee et al. 2023).
    Expectation,
}

/// The shape of a requested answer, regardless of its subject.
#[cfg(any(feature = "judge", feature = "neural"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnswerShape {
    /// The longest answer, in tokens, by default.
    pub(crate) max_tokens: u32,
    /// `true` if the answer needs the log-probabilities of its tokens.
    pub(crate) log_probs: bool,
    /// `true` if the answer must follow the schema of a justification and a score.
    pub(crate) schema: bool,
}

#[cfg(any(feature = "judge", feature = "neural"))]
impl AnswerForm {
    /// The shape of answers of this form.
    pub(crate) fn shape(self) -> AnswerShape {
        let max_tokens = match self {
            Self::Number => 16,
            Self::Expectation => 4,
            Self::NumberThenReason | Self::Json => 300,
        };
        let (log_probs, schema) = (self == Self::Expectation, self == Self::Json);
        AnswerShape { max_tokens, log_probs, schema }
    }
}

/// Content of a judge's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The score.
    pub score: Score,
    /// For expectations: the share of the probability on numbers of the scale, in [0, 1].
    pub coverage: Option<f64>,
}
