//! Which settings may not, or should not, be used where responses are trained on.

use super::config::{Eos, GenerationConfig, Sampling};
use crate::{error::LmError, spec::LmSpec};

/// A setting of generation that does harm in a rollout: [`RolloutConcern::setting`] is its name, and
/// what is displayed says what is wrong with it.
///
/// Policy gradients compare log-probabilities of the sampled tokens under the old and the new
/// policy. Both are taken from the whole softmax, so the tokens must have been drawn from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutConcern {
    /// Refused: greedy responses.
    #[error(
        "is greedy: nothing is explored, and the responses are no sample of the policy; use the \
         method `sample`"
    )]
    Greedy,
    /// Refused: a cut distribution.
    #[error(
        "cuts tokens off before the draw, but log-probabilities are taken from the whole softmax: \
         the ratio of new to old policy is then wrong by the mass that was kept; leave it out"
    )]
    Truncated {
        /// `sampling.top_k`, `sampling.top_p` or `sampling.min_p`.
        setting: &'static str,
    },
    /// Refused: repetition penalty.
    #[error(
        "changes the distribution that tokens are drawn from, but not the one whose \
         log-probabilities are compared; set it to 1, and penalise repetition in the reward"
    )]
    RepetitionPenalty,
    /// Refused: forbidden tokens.
    #[error(
        "forbids tokens in the draw, but not in the log-probabilities that are compared; leave it \
         empty, and penalise them in the reward"
    )]
    ForbiddenTokens,
    /// Refused: nothing but the limit ends a response, and that was not asked for.
    #[error(
        "is empty, and the policy's config.json names no end of sequence that the vocabulary has, \
         so that nothing but `max_new_tokens` ends a response: name the ids that do; or set `eos` \
         to `ignored`, for responses of full length"
    )]
    Endless,
    /// A warning: end of sequence suppressed.
    #[error(
        "is {min}: before that the end of sequence is never drawn however probable it is, which \
         makes the KL negative and rewards the policy for it; set it to 0, or use \
         `eos = \"ignored\"` for responses of a fixed length"
    )]
    LeastLength {
        /// The setting.
        min: usize,
    },
    /// A warning: the pad id ends responses.
    #[error(
        "is {pad}, which is an end-of-sequence id as well. Nothing here finds the end of a response \
         by it, but programs that do will not see the end of sequence trained; give the model \
         another pad id"
    )]
    PadEndsSequence {
        /// The pad id.
        pad: u32,
    },
}

impl RolloutConcern {
    /// The setting by its path in [`GenerationConfig`]; `pad_token_id` is the model's.
    pub fn setting(&self) -> &'static str {
        match self {
            Self::Greedy => "sampling",
            Self::Truncated { setting } => setting,
            Self::RepetitionPenalty => "repetition_penalty",
            Self::ForbiddenTokens => "bad_ids",
            Self::Endless => "stop_ids",
            Self::LeastLength { .. } => "min_new_tokens",
            Self::PadEndsSequence { .. } => "pad_token_id",
        }
    }

    /// True if a rollout must not be made with it; the others are warnings.
    pub fn is_refused(&self) -> bool {
        !matches!(self, Self::PadEndsSequence { .. } | Self::LeastLength { .. })
    }
}

/// What is wrong with settings that responses for training are generated with, whatever the model:
/// all of it, what is refused and what is a warning.
pub fn rollout_concerns(config: &GenerationConfig) -> Vec<RolloutConcern> {
    let mut concerns = Vec::new();
    match config.sampling {
        Sampling::Greedy => concerns.push(RolloutConcern::Greedy),
        Sampling::Sample { top_k, top_p, min_p, .. } => {
            let cuts = [
                ("sampling.top_k", top_k.is_some()),
                ("sampling.top_p", top_p.is_some_and(|p| p < 1.)),
                ("sampling.min_p", min_p.is_some_and(|p| p > 0.)),
            ];
            let cuts = cuts.into_iter().filter(|(_, cuts)| *cuts);
            concerns.extend(cuts.map(|(setting, _)| RolloutConcern::Truncated { setting }));
        }
    }
    if config.repetition_penalty != 1. {
        concerns.push(RolloutConcern::RepetitionPenalty);
    }
    if !config.bad_ids.is_empty() {
        concerns.push(RolloutConcern::ForbiddenTokens);
    }
    // Where no id ends a response, none is suppressed.
    let ids_end = config.eos == Eos::Ends || !config.stop_ids.is_empty();
    if config.min_new_tokens > 0 && ids_end {
        concerns.push(RolloutConcern::LeastLength { min: config.min_new_tokens });
    }
    concerns
}

/// Checks settings that responses for training are generated with against the model that generates
/// them, and returns the warnings.
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
/// let config = GenerationConfig { repetition_penalty: 1.2, ..GenerationConfig::default() };
/// let refused = check_rollout(&config, &spec).unwrap_err();
/// assert!(matches!(refused, LmError::UnfitForRollout(RolloutConcern::RepetitionPenalty)));
/// # Ok::<(), LmError>(())
/// ```
pub fn check_rollout(
    config: &GenerationConfig,
    spec: &LmSpec,
) -> Result<Vec<RolloutConcern>, LmError> {
    let mut concerns = rollout_concerns(config);
    let ends = config.eos == Eos::Ignored
        || spec.eos_ids.iter().any(|&id| i64::from(id) < spec.vocab_size)
        || !config.stop_ids.is_empty()
        || !config.stop_strings.is_empty();
    if !ends {
        concerns.push(RolloutConcern::Endless);
    }
    if spec.is_eos(spec.pad_id) {
        concerns.push(RolloutConcern::PadEndsSequence { pad: spec.pad_id });
    }
    match concerns.iter().position(RolloutConcern::is_refused) {
        Some(refused) => Err(LmError::UnfitForRollout(concerns.swap_remove(refused))),
        None => Ok(concerns),
    }
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
            (GenerationConfig { sampling: Sampling::Greedy, ..base() }, "`sampling` is greedy"),
            (cut(Some(50), None, None), "`sampling.top_k` cuts"),
            (cut(None, Some(0.9), None), "`sampling.top_p` cuts"),
            (cut(None, None, Some(0.1)), "`sampling.min_p` cuts"),
            (
                GenerationConfig { repetition_penalty: 1.1, ..base() },
                "`repetition_penalty` changes",
            ),
            (GenerationConfig { bad_ids: vec![vec![3]], ..base() }, "`bad_ids` forbids"),
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
        let least = GenerationConfig { min_new_tokens: 3, ..config };
        let warnings = check_rollout(&least, &spec(0, vec![1])).unwrap();
        assert_eq!(warnings, [RolloutConcern::LeastLength { min: 3 }]);
        assert!(warnings[0].to_string().contains("KL negative"));
        let fixed = GenerationConfig { eos: Eos::Ignored, ..least };
        assert_eq!(check_rollout(&fixed, &spec(0, vec![1])).unwrap(), []);
    }

    #[test]
    fn responses_without_an_end_are_made_on_purpose_only() {
        let config = GenerationConfig::default();
        let error = check_rollout(&config, &spec(0, vec![])).unwrap_err();
        assert!(matches!(error, LmError::UnfitForRollout(RolloutConcern::Endless)), "{error}");
        for config in [
            GenerationConfig { eos: Eos::Ignored, ..config.clone() },
            GenerationConfig { stop_ids: vec![7], ..config.clone() },
            GenerationConfig { stop_strings: vec![".".to_owned()], ..config },
        ] {
            assert_eq!(check_rollout(&config, &spec(0, vec![])).unwrap(), []);
        }
    }
}
