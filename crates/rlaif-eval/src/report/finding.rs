//! What went wrong in training, as the trainer noticed it.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{EvalError, files};

/// A symptom that the trainer noticed, with its likely cause and what to change.
///
/// ```
/// use rlaif_eval::Finding;
/// let finding: Finding = serde_json::from_str(
///     r#"{"step": 3, "symptom": "negative_kl", "seen": "`objective/kl` is -3.00",
///         "cause": "Responses are sampled otherwise than trained",
///         "advice": "Leave `generation.top_k` unset"}"#,
/// )?;
/// assert_eq!(finding.to_string(), "step 3, negative KL: `objective/kl` is -3.00");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The step of training at which it was noticed.
    pub step: u64,
    /// What it is, such as `negative_kl`.
    pub symptom: String,
    /// What was seen, in numbers.
    pub seen: String,
    /// The likely cause.
    pub cause: String,
    /// The setting to change.
    pub advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> =
            self.symptom.split('_').map(|word| if word == "kl" { "KL" } else { word }).collect();
        write!(f, "step {}, {}: {}", self.step, words.join(" "), self.seen)
    }
}

/// Reads what a trainer noticed, a list that may be empty; the `findings.json` of a run's folder.
///
/// # Errors
/// [`EvalError::Io`], [`EvalError::Format`].
pub fn read_findings(path: &Path) -> Result<Vec<Finding>, EvalError> {
    files::read_json(
        path,
        "a list of findings, each with `step`, `symptom`, `seen`, `cause` and `advice`",
    )
}
