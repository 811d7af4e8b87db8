//! Asks to responses as text.

use rlaif_core::Specials;

use crate::{
    error::LmError,
    generate::{Ask, Hooks, before_stop, generate},
    sampled::{Sampled, SamplerCall, Weights},
};

/// Generates a response to every ask, decodes it without special tokens, and cuts it at the first
/// stop string. The order is that of `asks`; without a tokenizer in `hooks`, texts are empty.
///
/// # Errors
/// As [`generate`]; [`LmError::Codec`] if a response cannot be decoded.
///
/// ```
/// use rlaif_core::{Seed, TextCodec};
/// use rlaif_lm::{Draw, LmError, Policy, SamplerCall, Weights, respond};
/// use rlaif_lm::generate::{Ask, GenerationConfig, Hooks};
///
/// fn answer(policy: &dyn Policy, codec: &dyn TextCodec, prompt: Vec<u32>) -> Result<String, LmError> {
///     let asks = [Ask { id: 0, prompt, max_new_tokens: None }];
///     let draw = Draw { seed: Seed::new(1), step: 0 };
///     let call = SamplerCall { weights: Weights::of(policy), how: &GenerationConfig::default(), draw };
///     let hooks = Hooks { codec: Some(codec), on_token: None };
///     let mut all = respond(&asks, call, hooks)?;
///     Ok(all.swap_remove(0).text)
/// }
/// ```
pub fn respond(
    asks: &[Ask],
    SamplerCall { weights, how, draw }: SamplerCall<'_>,
    hooks: Hooks<'_>,
) -> Result<Vec<Sampled>, LmError> {
    let codec = hooks.codec;
    let Weights { policy, forward, version } = weights;
    let generated = generate(policy, asks, how, draw.seed, draw.step, forward, hooks)?;
    generated
        .into_iter()
        .map(|response| {
            let text = match codec {
                Some(codec) => {
                    let text = codec.decode(&response.ids, Specials::Exclude)?;
                    before_stop(&text, &how.stop_strings).to_owned()
                }
                None => String::new(),
            };
            Ok(Sampled {
                ids: response.ids,
                log_probs: Some(response.log_probs),
                text,
                finish: response.finish,
                version,
                played: None,
            })
        })
        .collect()
}
