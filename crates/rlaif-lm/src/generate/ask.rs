//! Prompts to be answered, and the reasons why responses end.

use rlaif_core::BadSetting;
use serde::{Deserialize, Serialize};

use super::config::GenerationConfig;
use crate::{error::LmError, spec::LmSpec};

/// A prompt to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Determines the row's random numbers; rows of one call have different ids.
    pub id: u64,
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Maximum number of new tokens for this row; `None` for [`GenerationConfig::max_new_tokens`].
    pub max_new_tokens: Option<usize>,
}

impl Ask {
    pub(super) fn limit(&self, config: &GenerationConfig) -> usize {
        self.max_new_tokens.unwrap_or(config.max_new_tokens)
    }

    /// Checks that a model can answer this row; `row` is its index in the input, for the error.
    ///
    /// # Errors
    /// [`LmError::EmptyInput`], [`LmError::IdOutOfRange`], [`LmError::Setting`] for a limit of 0,
    /// [`LmError::TooLong`] if the prompt does not fit the context together with its response.
    pub fn check(
        &self,
        row: usize,
        config: &GenerationConfig,
        spec: &LmSpec,
    ) -> Result<(), LmError> {
        if self.prompt.is_empty() {
            return Err(LmError::EmptyInput { row });
        }
        spec.check_ids(row, &self.prompt)?;
        let limit = self.limit(config);
        if limit == 0 {
            let found = format!("0 for row {row}");
            return Err(BadSetting::new("max_new_tokens", found, "at least 1").into());
        }
        spec.check_length(row, spec.positions(self.prompt.len(), limit))
    }
}

/// Reasons why a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end-of-sequence id of the model.
    Eos,
    /// One of the stop ids or stop strings.
    Stop,
    /// The maximum number of tokens.
    Length,
}
