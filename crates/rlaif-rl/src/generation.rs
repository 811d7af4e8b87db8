//! Settings of generation that are suitable for training on the responses.

use rlaif_core::BadSetting;
use rlaif_lm::{
    LmError, LmSpec, Prompt,
    generate::{GenerationConfig, RolloutConcern, check_rollout, rollout_concerns},
};

use crate::error::RlError;

/// Below this temperature a difference of 1 between logits becomes more than 100, and gradients
/// overflow.
const LEAST_TEMPERATURE: f64 = 0.01;

/// Checks settings of generation for training on the responses, for any model.
///
/// # Errors
/// [`RlError::Rollout`] for a setting that breaks training, [`RlError::Setting`] for a number that is
/// out of range.
pub fn check_sampling(generation: &GenerationConfig) -> Result<(), RlError> {
    let refused = rollout_concerns(generation).into_iter().find(RolloutConcern::is_refused);
    if let Some(concern) = refused {
        return Err(RlError::rollout(concern));
    }
    generation.check_settings().map_err(|error| error.within("generation"))?;
    let temperature = generation.sampling.temperature();
    if !(LEAST_TEMPERATURE..=f64::from(f32::MAX)).contains(&temperature) {
        let expected = format!("at least {LEAST_TEMPERATURE}: below it, sampling is greedy");
        let field = "generation.sampling.temperature";
        return Err(BadSetting::new(field, temperature, expected).into());
    }
    Ok(())
}

/// Checks settings of generation against the trained policy, and returns warnings.
///
/// # Errors
/// [`RlError::Rollout`], [`RlError::Lm`]; [`RlError::Setting`] for responses that leave no room for
/// a prompt.
pub fn check_policy(
    generation: &GenerationConfig,
    spec: &LmSpec,
) -> Result<Vec<RolloutConcern>, RlError> {
    let warnings = check_rollout(generation, spec).map_err(|error| match error {
        LmError::UnfitForRollout(concern) => RlError::rollout(concern),
        other => RlError::Lm(other),
    })?;
    generation.check(spec)?;
    if let Some(context) = spec.context
        && generation.max_new_tokens > spec.remaining(context, 1)
    {
        let expected =
            format!("less than the policy's context of {context}, with room for a prompt");
        let (field, found) = ("generation.max_new_tokens", generation.max_new_tokens);
        return Err(BadSetting::new(field, found, expected).into());
    }
    Ok(warnings)
}

/// Checks that the number of prompts is that of a step, and that each prompt and its response fit
/// the policy.
///
/// # Errors
/// [`RlError::Rows`] for another number; [`RlError::Lm`] for an id that the policy does not have, and
/// for a prompt that does not fit its context with `max_new_tokens`.
pub fn check_prompts(
    prompts: &[Prompt],
    expected: usize,
    generation: &GenerationConfig,
    spec: &LmSpec,
) -> Result<(), RlError> {
    if prompts.len() != expected {
        return Err(RlError::Rows { what: "prompts", expected, found: prompts.len() });
    }
    for (row, prompt) in prompts.iter().enumerate() {
        spec.check(row, &prompt.ids)?;
        spec.check_length(row, spec.positions(prompt.ids.len(), generation.max_new_tokens))?;
    }
    Ok(())
}
