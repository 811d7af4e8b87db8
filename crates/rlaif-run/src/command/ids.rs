//! Responses to prompts of ids, without texts.

use rlaif_lm::{
    Draw, LmError, Policy, Sampled, SamplerCall, Weights,
    generate::{Ask, GenerationConfig, Hooks},
    respond,
};

/// A response of ids to each prompt. The rows have the numbers from `first` on.
pub(super) fn responses_to(
    policy: &dyn Policy,
    prompts: &[Vec<u32>],
    first: u64,
    how: &GenerationConfig,
    draw: Draw,
) -> Result<Vec<Sampled>, LmError> {
    let asks: Vec<Ask> = (first..)
        .zip(prompts)
        .map(|(id, prompt)| Ask { id, prompt: prompt.clone(), max_new_tokens: None })
        .collect();
    respond(&asks, SamplerCall { weights: Weights::of(policy), how, draw }, Hooks::default())
}
