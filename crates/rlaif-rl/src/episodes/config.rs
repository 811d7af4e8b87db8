//! Settings of episodes.

use rlaif_core::BadSetting;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits of episodes, and the form of an environment's texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EpisodeConfig {
    /// Maximum number of turns of the policy.
    pub max_turns: usize,
    /// Maximum length of an episode behind its prompt, in tokens, those of the environment and of rewritten histories
    /// included.
    pub max_tokens: usize,
    /// Seconds that the environment has for each answer.
    pub timeout_s: f64,
    /// Treatment of a chat template that rewrites earlier turns.
    pub history: History,
    /// Text before a message of the environment, for prompts without a chat template.
    pub before: String,
    /// Text after a message of the environment, for prompts without a chat template.
    pub after: String,
}

/// Treatment of a chat template that rewrites earlier turns, for example without their reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum History {
    /// The episode ends without a score: the tokens that the policy would read are not those that it sampled.
    Strict,
    /// Earlier turns stay as they were sampled, and only new messages are rendered.
    Sampled,
    /// The policy reads the conversation as the template rewrites it, and continues there. Each turn is trained
    /// behind the tokens that it was sampled behind.
    #[default]
    Fork,
}

impl Default for EpisodeConfig {
    fn default() -> Self {
        Self {
            max_turns: 10,
            max_tokens: 2048,
            timeout_s: 60.,
            history: History::Fork,
            before: "\n".to_owned(),
            after: "\n".to_owned(),
        }
    }
}

impl EpisodeConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`BadSetting`] names the first that is out of range.
    pub fn check(&self) -> Result<(), BadSetting> {
        for (field, found) in [("max_turns", self.max_turns), ("max_tokens", self.max_tokens)] {
            if found == 0 {
                return Err(BadSetting::new(field, found, "at least 1"));
            }
        }
        let limit = self.timeout_s;
        // A longer limit does not fit a duration.
        if !(limit > 0. && limit <= 1e9) {
            return Err(BadSetting::new("timeout_s", limit, "above 0 and at most 1e9"));
        }
        Ok(())
    }
}
