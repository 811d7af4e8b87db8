//! Grades that a reward must have before a training starts.

use rlaif_core::ExamName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A grade that a reward must have, at an exam, before a training with it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExamDemand {
    /// The file of questions, or of preference pairs.
    pub file: String,
    /// The exam; by default it is told by the columns of the file.
    pub exam: Option<ExamName>,
    /// The first so many questions.
    pub take: Option<usize>,
    /// The least grade, from 0 to 1.
    pub at_least: f64,
}
