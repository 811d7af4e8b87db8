//! From responses to scores.

use rlaif_core::{Exchange, RewardModel, Scores};
use rlaif_lm::{Prompt, Sampled, place};

use crate::error::RlError;

/// Scores the texts of responses to prompts.
///
/// # Errors
/// [`RlError::Reward`] if the reward model fails, or returns a wrong number of scores.
pub fn score(
    prompts: &[Prompt],
    sampled: &[Sampled],
    reward: &dyn RewardModel,
) -> Result<Scores, RlError> {
    let exchanges: Vec<Exchange<'_>> = (prompts.iter().zip(sampled))
        .map(|(prompt, response)| prompt.record.exchange(&response.text))
        .collect();
    let scores = reward.score(&exchanges).map_err(|error| error.in_row(place(prompts)))?;
    Ok(scores.check(reward.name(), exchanges.len())?)
}
