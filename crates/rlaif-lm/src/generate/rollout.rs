//! Settings that must not, or should not, be used where responses are trained on.

use rlaif_core::Eos;

use super::config::{GenerationConfig, Sampling};
use crate::{concern::RolloutConcern, error::LmError, spec::LmSpec};

/// Returns the concerns about settings of generation for training, with any model: all of them,
/// what is refused and what is a warning.
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
/// #     decoder_start_id: None, forced: Default::default(), kind: tch::Kind::Float, device: tch::Device::Cpu };
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
    concerns.extend(end_concerns(config, spec));
    match concerns.iter().position(RolloutConcern::is_refused) {
        Some(refused) => Err(LmError::UnfitForRollout(concerns.swap_remove(refused))),
        None => Ok(concerns),
    }
}

/// Returns the concerns about the ends of responses of this model, for training of any kind on
/// them.
pub fn end_concerns(config: &GenerationConfig, spec: &LmSpec) -> Vec<RolloutConcern> {
    let mut concerns = Vec::new();
    let ends = config.eos == Eos::Ignored
        || spec.eos_ids.iter().any(|&id| i64::from(id) < spec.vocab_size)
        || !config.stop_ids.is_empty()
        || !config.stop_strings.is_empty();
    if !ends {
        concerns.push(RolloutConcern::Endless);
    }
    let last = spec.forced.last.filter(|_| config.eos == Eos::Ends);
    let forced = [("forced_bos_token_id", spec.forced.first), ("forced_eos_token_id", last)];
    let forced = forced.into_iter().filter_map(|(key, id)| Some((key, id?)));
    concerns.extend(forced.map(|(key, id)| RolloutConcern::Forced { key, id }));
    if spec.is_eos(spec.pad_id) {
        concerns.push(RolloutConcern::PadEndsSequence { pad: spec.pad_id });
    }
    concerns
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
            forced: crate::ForcedIds::default(),
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
