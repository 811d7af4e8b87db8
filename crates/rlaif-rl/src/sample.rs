//! Prompts to responses, and responses to scores.

use rlaif_core::{Exchange, RewardModel, Scores};
use rlaif_lm::{
    Draw, RowIds, Sampled, Sampler, Weights,
    generate::{Ask, GenerationConfig},
};

use crate::{error::RlError, rollout::Prompt};

/// Samples a response to each prompt. Several responses to one prompt are several equal prompts:
/// the policy reads such a prompt once.
///
/// The tokens of a row depend on the random numbers of `draw` and on the id of the prompt's
/// record, not on the rows beside it.
///
/// # Errors
/// What the sampler refuses; [`RlError::Rows`] if it answers another number of prompts.
pub fn sample(
    sampler: &mut dyn Sampler,
    weights: Weights<'_>,
    prompts: &[Prompt],
    how: &GenerationConfig,
    draw: Draw,
) -> Result<Vec<Sampled>, RlError> {
    let mut ids = RowIds::default();
    let asks: Vec<Ask> = prompts
        .iter()
        .map(|prompt| Ask {
            id: ids.of(&prompt.record.id),
            prompt: prompt.ids.to_vec(),
            max_new_tokens: None,
        })
        .collect();
    let sampled = sampler.sample(weights, &asks, how, draw)?;
    if sampled.len() != prompts.len() {
        let (expected, found) = (prompts.len(), sampled.len());
        return Err(RlError::Rows { what: "responses of the sampler", expected, found });
    }
    Ok(sampled)
}

/// Scores the responses to prompts, by their texts.
///
/// # Errors
/// [`RlError::Reward`] for what the reward model fails with, or scores that are not one for each
/// response.
pub fn score(
    prompts: &[Prompt],
    sampled: &[Sampled],
    reward: &dyn RewardModel,
) -> Result<Scores, RlError> {
    let exchanges: Vec<Exchange<'_>> = (prompts.iter().zip(sampled))
        .map(|(prompt, response)| prompt.record.exchange(&response.text))
        .collect();
    Ok(reward.score(&exchanges)?.check(reward.name(), exchanges.len())?)
}
