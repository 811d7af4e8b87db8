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

/// Returns a warning about responses without a verdict, with the reason for the first; `None` if all
/// have one.
pub fn unscored(reward: &str, prompts: &[Prompt], scores: &Scores) -> Option<String> {
    let missing = scores.total.iter().filter(|score| score.is_none()).count();
    let first = scores.total.iter().position(Option::is_none)?;
    let reason = scores.reasons.iter().find(|(row, _)| *row == first);
    let reason = reason.map_or("the reward model does not say why", |(_, reason)| reason);
    Some(format!(
        "warning: reward `{reward}` gave no verdict on {missing} of {} responses of this step; the \
         first, to {}: {reason}. Later ones are counted in the metrics",
        scores.total.len(),
        place(prompts)(first)
    ))
}
