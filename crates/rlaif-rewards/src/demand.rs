//! Minimum grades of a reward before a training starts.

use rlaif_core::ExamName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The minimum grade of a reward, at an exam, before a training with it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExamDemand {
    /// The file of questions, or of preference pairs.
    pub file: String,
    /// The exam; by default, recognised by the columns of the file.
    pub exam: Option<ExamName>,
    /// The column of reference responses, for preference pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_column: Option<String>,
    /// Maximum number of questions: the first ones.
    pub take: Option<usize>,
    /// The minimum grade, from 0 to 1.
    pub at_least: f64,
}
