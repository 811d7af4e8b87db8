//! Symptoms that a run noticed in itself.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A symptom with its likely cause and what to change; a row of `findings.json`.
///
/// ```
/// let finding = rlaif_train::Finding {
///     step: 3,
///     symptom: "negative_kl".to_owned(),
///     seen: "`objective/kl` is -3.00".to_owned(),
///     cause: "Responses are sampled otherwise than trained".to_owned(),
///     advice: "Leave `generation.top_k` unset".to_owned(),
/// };
/// assert!(finding.to_string().starts_with("step 3: `objective/kl` is -3.00. "));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The step at which it was noticed.
    pub step: u64,
    /// Kind of the finding, such as `negative_kl`.
    pub symptom: String,
    /// The observation, in numbers.
    pub seen: String,
    /// The likely cause.
    pub cause: String,
    /// The setting to change.
    pub advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: {}. {}. {}", self.step, self.seen, self.cause, self.advice)
    }
}
