//! Which settings may not, or should not, be used where responses are trained on.

use super::config::{Eos, GenerationConfig, Sampling};
use crate::{error::LmError, spec::LmSpec};

/// A setting of generation that does harm in a rollout.
///
/// Policy gradients compare log-probabilities of the sampled tokens under the old and the new
/// policy. Both are taken from the whole softmax, so the tokens must have been drawn from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutConcern {
    /// Refused: greedy responses.
    #[error(
        "`sampling` is greedy: nothing is explored, and the responses are no sample of the policy; \
         use the method `sample`"
    )]
    Greedy,
    /// Refused: a cut distribution.
    #[error(
        "`sampling.{setting}` cuts tokens off before the draw, but log-probabilities are taken from \
         the whole softmax: the ratio of new to old policy is then wrong by the mass that was kept; \
         leave it out"
    )]
    Truncated {
        /// `top_k`, `top_p` or `min_p`.
        setting: &'static str,
    },
    /// Refused: end of sequence suppressed.
    #[error(
        "`min_new_tokens` is {min}: before that the end of sequence is never drawn however probable \
         it is, which makes the KL negative and rewards the policy for it; set it to 0, or use \
         `eos = \"ignored\"` for responses of a fixed length"
    )]
    LeastLength {
        /// The setting.
        min: usize,
    },
    /// Refused: repetition penalty.
    #[error(
        "`repetition_penalty` changes the distribution that tokens are drawn from, but not the one \
         whose log-probabilities are compared; set it to 1, and penalise repetition in the reward"
    )]
    RepetitionPenalty,
    /// Refused: forbidden tokens.
    #[error(
        "`bad_ids` forbids tokens in the draw, but not in the log-probabilities that are compared; \
         leave it empty, and penalise them in the reward"
    )]
    ForbiddenTokens,
    /// A warning: the pad id ends responses.
    #[error(
        "the model's pad id {pad} is one of its end-of-sequence ids. Nothing here finds the end of a \
         response by it, but programs that do will not see the end of sequence trained"
    )]
    PadEndsSequence {
        /// The pad id.
        pad: u32,
    },
    /// A warning: nothing but the limit ends a response.
    #[error(
        "nothing ends a response but `max_new_tokens`: the model names no end-of-sequence id, or it \
         is ignored, and there is no stop id or stop string"
    )]
    Endless,
}

impl RolloutConcern {
    /// True if a rollout must not be made with it; the others are warnings.
    pub fn is_refused(&self) -> bool {
        !matches!(self, Self::PadEndsSequence { .. } | Self::Endless)
    }
}

/// Checks settings that responses for training are generated with, and returns the warnings.
///
/// # Errors
/// [`LmError::UnfitForRollout`] with the first concern that is refused.
///
/// ```
/// use rlaif_lm::{LmError, LmSpec, generate::{GenerationConfig, RolloutConcern, check_rollout}};
/// # let spec = LmSpec { model_type: "llama".into(), hidden_size: 8, vocab_size: 100,
/// #     context: Some(16), pad_id: 0, eos_ids: vec![2], bos_id: Some(1),
/// #     decoder_start_id: None, kind: tch::Kind::Float, device: tch::Device::Cpu };
/// assert!(check_rollout(&GenerationConfig::default(), &spec)?.is_empty());
/// let config = GenerationConfig { min_new_tokens: 5, ..GenerationConfig::default() };
/// let refused = check_rollout(&config, &spec).unwrap_err();
/// assert!(matches!(refused, LmError::UnfitForRollout(RolloutConcern::LeastLength { min: 5 })));
/// # Ok::<(), LmError>(())
/// ```
pub fn check_rollout(
    config: &GenerationConfig,
    spec: &LmSpec,
) -> Result<Vec<RolloutConcern>, LmError> {
    let mut concerns = Vec::new();
    match config.sampling {
        Sampling::Greedy => concerns.push(RolloutConcern::Greedy),
        Sampling::Sample { top_k, top_p, min_p, .. } => {
            let cuts = [
                ("top_k", top_k.is_some()),
                ("top_p", top_p.is_some_and(|p| p < 1.)),
                ("min_p", min_p.is_some_and(|p| p > 0.)),
            ];
            let cuts = cuts.into_iter().filter(|(_, cuts)| *cuts);
            concerns.extend(cuts.map(|(setting, _)| RolloutConcern::Truncated { setting }));
        }
    }
    if config.min_new_tokens > 0 {
        concerns.push(RolloutConcern::LeastLength { min: config.min_new_tokens });
    }
    if config.repetition_penalty != 1. {
        concerns.push(RolloutConcern::RepetitionPenalty);
    }
    if !config.bad_ids.is_empty() {
        concerns.push(RolloutConcern::ForbiddenTokens);
    }
    if let Some(refused) = concerns.into_iter().next() {
        return Err(LmError::UnfitForRollout(refused));
    }
    let mut warnings = Vec::new();
    if spec.is_eos(spec.pad_id) {
        warnings.push(RolloutConcern::PadEndsSequence { pad: spec.pad_id });
    }
    let eos = config.eos == Eos::Ends && !spec.eos_ids.is_empty();
    if !eos && config.stop_ids.is_empty() && config.stop_strings.is_empty() {
        warnings.push(RolloutConcern::Endless);
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn spec(pad_id: u32, eos_ids: Vec<u32>) -> LmSpec {
        LmSpec {
            model_type: "t5".to_owned(),
            hidden_size: 8,
            vocab_size: 100,
            context: None,
            pad_id,
            eos_ids,
            bos_id: None,
            decoder_start_id: Some(0),
            kind: Kind::Float,
            device: Device::Cpu,
        }
    }

    #[test]
    fn what_breaks_training_is_refused_with_its_reason() {
        let base = GenerationConfig::default;
        let cut = |top_k, top_p, min_p| GenerationConfig {
            sampling: Sampling::Sample { temperature: 1., top_k, top_p, min_p },
            ..base()
        };
        let cases = [
            (GenerationConfig { sampling: Sampling::Greedy, ..base() }, "greedy"),
            (cut(Some(50), None, None), "sampling.top_k"),
            (cut(None, Some(0.9), None), "sampling.top_p"),
            (cut(None, None, Some(0.1)), "sampling.min_p"),
            (GenerationConfig { min_new_tokens: 1, ..base() }, "KL negative"),
            (GenerationConfig { repetition_penalty: 1.1, ..base() }, "repetition_penalty"),
            (GenerationConfig { bad_ids: vec![vec![3]], ..base() }, "bad_ids"),
        ];
        for (config, reason) in cases {
            let error = check_rollout(&config, &spec(0, vec![1])).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            let LmError::UnfitForRollout(concern) = error else { panic!("{error}") };
            assert!(concern.is_refused());
        }
        // These cut nothing.
        let whole = cut(None, Some(1.), Some(0.));
        assert_eq!(check_rollout(&whole, &spec(0, vec![1])).unwrap(), []);
    }

    #[test]
    fn what_may_mislead_is_a_warning() {
        let config = GenerationConfig::default();
        let warnings = check_rollout(&config, &spec(1, vec![1])).unwrap();
        assert_eq!(warnings, [RolloutConcern::PadEndsSequence { pad: 1 }]);
        assert_eq!(check_rollout(&config, &spec(0, vec![])).unwrap(), [RolloutConcern::Endless]);
        let ignored = GenerationConfig { eos: Eos::Ignored, ..config };
        assert_eq!(check_rollout(&ignored, &spec(0, vec![1])).unwrap(), [RolloutConcern::Endless]);
        let stops = GenerationConfig { stop_ids: vec![7], ..ignored };
        assert_eq!(check_rollout(&stops, &spec(0, vec![1])).unwrap(), []);
        assert!(warnings.iter().all(|warning| !warning.is_refused()));
    }
}
