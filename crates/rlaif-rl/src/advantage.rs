//! From token rewards to advantages.

use rlaif_lm::{Mask, Whiten};
use rlaif_train::{Advantages, gae};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{error::RlError, rollout::Rollout};

/// Whitening of a tensor over tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Whitening {
    /// Unchanged.
    None,
    /// Over the tokens of the whole batch. Rewards keep their mean, advantages have mean 0.
    Batch,
}

impl Whitening {
    /// Returns the tensor unchanged, or whitened over the tokens that count. With fewer than two
    /// such tokens there is no variance to divide by, and the tensor is unchanged.
    pub fn of(self, x: Tensor, mask: &Mask, tokens: usize, how: Whiten) -> Tensor {
        if self == Self::Batch && tokens > 1 { mask.whiten(&x, how) } else { x }
    }
}

/// Estimates advantages from token rewards. Up to the loss, PPO, RLOO, REINFORCE++ and GRPO differ
/// only in this estimator.
///
/// ```
/// use rlaif_rl::{Advantage, RlError, Rollout, train::Advantages};
/// use tch::{Kind, Tensor};
///
/// /// The sum of a response's rewards, the same at each of its tokens.
/// struct Sum;
///
/// impl Advantage for Sum {
///     fn of(&self, rollout: &Rollout, rewards: &Tensor) -> Result<Advantages, RlError> {
///         let sums = rollout.mask.row_sums(rewards).unsqueeze(1);
///         let returns = rollout.mask.apply(&sums.expand_as(rewards));
///         Ok(Advantages::new(returns.shallow_clone(), returns))
///     }
/// }
/// ```
pub trait Advantage {
    /// Advantages and returns, `[B, T]` each, from rewards `[B, T]`.
    ///
    /// # Errors
    /// [`RlError`] for a rollout that lacks what the estimate needs.
    fn of(&self, rollout: &Rollout, rewards: &Tensor) -> Result<Advantages, RlError>;

    /// `true` if the rollout needs the values of a value function.
    fn needs_values(&self) -> bool {
        false
    }
}

/// Generalized advantage estimation ([`rlaif_train::gae`]) with a value function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gae {
    /// Discount γ.
    pub gamma: f64,
    /// λ.
    pub lambda: f64,
}

impl Advantage for Gae {
    fn of(&self, rollout: &Rollout, rewards: &Tensor) -> Result<Advantages, RlError> {
        let values = rollout.values.as_ref().ok_or(RlError::NoValues)?;
        Ok(gae(rewards, values, &rollout.mask, self.gamma, self.lambda))
    }

    fn needs_values(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, sync::Arc};

    use rlaif_core::PromptRecord;
    use rlaif_lm::{LmSpec, Padding, TokenBatch, generate::FinishReason};
    use tch::{Device, Kind};

    use super::*;
    use crate::{AdvantageEstimator, AdvantageScale, batch::counted, objective::Average};

    const LEAVE_ONE_OUT: AdvantageEstimator =
        AdvantageEstimator::LeaveOneOut { scale: AdvantageScale::None };

    /// Responses of the given lengths to records with the given ids; those without a score do not
    /// count.
    fn rollout(rows: &[(&str, usize, Option<f64>)]) -> Rollout {
        let spec = LmSpec {
            model_type: "llama".to_owned(),
            hidden_size: 8,
            vocab_size: 10,
            context: None,
            pad_id: 0,
            eos_ids: vec![1],
            bos_id: None,
            decoder_start_id: None,
            forced: rlaif_lm::ForcedIds::default(),
            kind: Kind::Float,
            device: Device::Cpu,
        };
        let pad = |rows| TokenBatch::collate(rows, &spec, Padding::Right).unwrap();
        let responses = pad(rows.iter().map(|row| vec![5; row.1]).collect());
        let scores: Vec<Option<f64>> = rows.iter().map(|row| row.2).collect();
        let zeros = || {
            let size = [rows.len() as i64, responses.width() as i64];
            Tensor::zeros(size, (Kind::Float, Device::Cpu))
        };
        Rollout {
            step: 0,
            records: rows.iter().map(|row| Arc::new(PromptRecord::new(row.0, ""))).collect(),
            prompts: pad(vec![vec![3]; rows.len()]),
            texts: vec![String::new(); rows.len()],
            finish: vec![FinishReason::Eos; rows.len()],
            mask: counted(&responses, &scores, &[]),
            given: Vec::new(),
            episodes: None,
            log_probs: zeros(),
            ref_log_probs: zeros(),
            kl: zeros(),
            values: None,
            shaped_scores: scores.clone(),
            scores,
            unscored: None,
            parts: Vec::new(),
            orders: Vec::new(),
            sampler_log_probs: None,
            versions: Vec::new(),
            sampler_gap: None,
            seconds: Vec::new(),
            responses,
        }
    }

    #[test]
    fn leave_one_out_is_less_the_mean_of_the_other_responses_to_the_prompt() {
        let rollout = rollout(&[
            ("a", 2, Some(1.)),
            ("b", 1, Some(9.)),
            ("a", 3, Some(4.)),
            ("a", 1, None),
            ("a", 1, Some(7.)),
        ]);
        let scores = crate::score_tensor(&rollout.shaped_scores, Device::Cpu);
        let rewards = crate::token_rewards(&scores, &rollout.kl, 0., &rollout.mask);
        let found = LEAVE_ONE_OUT.of(&rollout, &rewards).unwrap();
        let rows = Vec::<Vec<f32>>::try_from(&found.advantages).unwrap();
        // 1 - (4 + 7) / 2, nothing to compare with, 4 - (1 + 7) / 2, no score, 7 - (1 + 4) / 2.
        let want = [[-4.5, -4.5, 0.], [0., 0., 0.], [0., 0., 0.], [0., 0., 0.], [4.5, 0., 0.]];
        assert_eq!(rows, want);
        let returns = Vec::<Vec<f32>>::try_from(&found.returns).unwrap();
        assert_eq!(returns[2], [4., 4., 4.]);
        assert_eq!(returns[3], [0., 0., 0.]);
    }

    #[test]
    fn an_estimate_that_needs_values_says_so() {
        let rollout = rollout(&[("a", 2, Some(1.))]);
        let gae = Gae { gamma: 1., lambda: 0.95 };
        assert!(gae.needs_values() && !LEAVE_ONE_OUT.needs_values());
        let error = gae.of(&rollout, &rollout.kl).map(|_| ()).unwrap_err();
        assert!(matches!(error, RlError::NoValues), "{error}");
    }

    #[test]
    fn the_mean_of_parts_by_their_weights_is_the_mean_of_all() {
        const FOUR: NonZeroUsize = NonZeroUsize::new(4).unwrap();
        let rollout =
            rollout(&[("a", 2, Some(1.)), ("b", 1, None), ("c", 3, Some(0.)), ("d", 1, Some(2.))]);
        let x = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([4, 3]);
        for average in [Average::Tokens, Average::Responses, Average::Constant(FOUR)] {
            let all: Vec<usize> = (0..4).collect();
            let whole = average.of(&x, &rollout.mask).double_value(&[]);
            let parts: f64 = [[0, 1], [2, 3]]
                .iter()
                .map(|rows| {
                    let part = |t: &Tensor| crate::pick(t, rows, 3);
                    let mask = Mask::new(part(rollout.mask.tensor()));
                    let share = average.weight(&rollout, rows) / average.weight(&rollout, &all);
                    share * average.of(&part(&x), &mask).double_value(&[])
                })
                .sum();
            assert!((whole - parts).abs() < 1e-5, "{average:?}: {whole} {parts}");
        }
    }
}
