//! From prompts to responses, and from responses to scores.

use rlaif_core::{Exchange, RewardModel, Scores};
use rlaif_lm::{
    Draw, RowIds, Sampled, Sampler, Weights,
    generate::{Ask, GenerationConfig},
};

use crate::{error::RlError, rollout::Prompt};

/// Samples a response to each prompt. For several responses to one prompt, repeat the prompt: the
/// policy computes it only once.
///
/// The tokens of a row depend on the random numbers of `draw` and on the id of the prompt's record,
/// not on the other rows.
///
/// # Errors
/// The sampler's errors; [`RlError::Rows`] for a wrong number of responses.
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
    Ok(reward.score(&exchanges)?.check(reward.name(), exchanges.len())?)
}
