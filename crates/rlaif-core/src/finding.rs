//! Symptoms that a run noticed in itself.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A symptom with its likely cause and what to change; a row of `findings.json`.
///
/// ```
/// use rlaif_core::Finding;
/// let finding: Finding = serde_json::from_str(
///     r#"{"step": 3, "symptom": "negative_kl", "seen": "`objective/kl` is -3.00",
///         "cause": "Responses are sampled otherwise than trained",
///         "advice": "Leave `generation.top_k` unset"}"#,
/// )?;
/// assert!(finding.to_string().starts_with("step 3: `objective/kl` is -3.00. Responses are"));
/// assert_eq!(finding.heading(), "step 3, negative KL: `objective/kl` is -3.00");
/// # Ok::<(), serde_json::Error>(())
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

impl Finding {
    /// Step, symptom and observation, without cause and advice.
    pub fn heading(&self) -> String {
        let words: Vec<&str> =
            self.symptom.split('_').map(|word| if word == "kl" { "KL" } else { word }).collect();
        format!("step {}, {}: {}", self.step, words.join(" "), self.seen)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: {}. {}. {}", self.step, self.seen, self.cause, self.advice)
    }
}
