//! Correction of the difference between the sampler's policy and the trainer's.

use rlaif_lm::Mask;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{batch::host, ratio::RatioLevel};

/// Weights the policy's loss by `w = π_old(y) / π_sampler(y)`. The training pass computes π_old
/// with the weights that sampled, so w is 1 if sampler and training pass agree.
///
/// A token for which the sampler gives no probability (NaN) has a ratio of 1.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Correction {
    /// 1.
    #[default]
    None,
    /// `clip(w, least, most)`: truncated importance sampling
    /// ([Yao et al. 2025](https://fengyao.notion.site/off-policy-rl)).
    Truncate {
        /// The ratio w.
        level: RatioLevel,
        /// The least weight.
        #[serde(default)]
        least: f64,
        /// The largest weight.
        most: f64,
    },
    /// `w` within the bounds and 0 outside: masked importance sampling; with token ratios this is
    /// IcePop ([Zhao et al. 2025](https://arxiv.org/abs/2510.18855)).
    Mask {
        /// The ratio w.
        level: RatioLevel,
        /// Below it the weight is 0.
        #[serde(default)]
        least: f64,
        /// Above it the weight is 0.
        most: f64,
    },
}

impl Correction {
    /// IcePop: tokens with a ratio outside the bounds have no gradient.
    pub const fn ice_pop(least: f64, most: f64) -> Self {
        Self::Mask { level: RatioLevel::Token, least, most }
    }

    /// The weights, `[B, T]` or `[B, 1]`, without gradient; `None` if all are 1.
    ///
    /// ```
    /// use rlaif_lm::Mask;
    /// use rlaif_rl::{Correction, RatioLevel};
    /// use tch::Tensor;
    /// let mask = Mask::new(Tensor::from_slice2(&[[true, true]]));
    /// let old = Tensor::from_slice2(&[[-1f64, -1.]]);
    /// let sampler = Tensor::from_slice2(&[[-1f64, -2.]]);
    /// let weights = |c: Correction| c.weights(&old, &sampler, &mask).unwrap().view([-1]);
    /// let truncate = Correction::Truncate { level: RatioLevel::Token, least: 0., most: 2. };
    /// assert_eq!(Vec::<f64>::try_from(weights(truncate)).unwrap(), [1., 2.]);
    /// assert_eq!(Vec::<f64>::try_from(weights(Correction::ice_pop(0.5, 2.))).unwrap(), [1., 0.]);
    /// ```
    pub fn weights(self, old: &Tensor, sampler: &Tensor, mask: &Mask) -> Option<Tensor> {
        let _guard = tch::no_grad_guard();
        let ratio = |level: RatioLevel| level.log(&differences(old, sampler), mask).exp();
        match self {
            Self::None => None,
            Self::Truncate { level, least, most } => Some(ratio(level).clamp(least, most)),
            Self::Mask { level, least, most } => {
                let ratio = ratio(level);
                let within = ratio.ge(least).logical_and(&ratio.le(most));
                Some(ratio.where_self(&within, &ratio.zeros_like()))
            }
        }
    }

    /// The bounds, with their names.
    pub(crate) fn bounds(self) -> Option<(f64, f64)> {
        match self {
            Self::None => None,
            Self::Truncate { least, most, .. } | Self::Mask { least, most, .. } => {
                Some((least, most))
            }
        }
    }
}

/// `old − sampler`, 0 where the sampler gives no probability.
fn differences(old: &Tensor, sampler: &Tensor) -> Tensor {
    let difference = old - sampler;
    let known = difference.isnan().logical_not();
    difference.where_self(&known, &difference.zeros_like())
}

/// Distance between the sampler's policy and that of the training pass, over the tokens that count
/// and for which the sampler gives a probability.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Mismatch {
    /// Mean of `ρ − log ρ − 1` with ρ = π_old / π_sampler: an estimate of KL(π_sampler ‖ π_old),
    /// never negative.
    pub kl: f64,
    /// Largest `|log ρ|`.
    pub largest: f64,
}

impl Mismatch {
    /// The distance between log-probabilities of the same tokens, `[B, T]`.
    pub fn of(old: &Tensor, sampler: &Tensor, mask: &Mask) -> Self {
        let _guard = tch::no_grad_guard();
        let difference = old - sampler;
        let told = mask.tensor().logical_and(&difference.isnan().logical_not());
        if told.sum(Kind::Int64).int64_value(&[]) == 0 {
            return Self::default();
        }
        let x = difference.masked_select(&told).to_kind(Kind::Double);
        let kl = (x.expm1() - &x).mean(Kind::Double);
        let numbers = host(&Tensor::stack(&[kl, x.abs().max()], 0));
        Self { kl: numbers[0], largest: numbers[1] }
    }
}

/// Off-policy sequence masking ([DeepSeek-V3.2](https://arxiv.org/abs/2512.02556), equation 9): a
/// response with a negative advantage has no loss if the policy is further than `max_kl` from the
/// sampler, in nats per token: `mean_t (log π_sampler − log π) > max_kl`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OffPolicyMask {
    /// δ, in nats per token.
    pub max_kl: f64,
}

impl OffPolicyMask {
    /// 1 for a token whose loss counts, else 0, `[B, T]`, without gradient.
    pub fn of(
        self,
        advantages: &Tensor,
        log_probs: &Tensor,
        sampler: &Tensor,
        mask: &Mask,
    ) -> Tensor {
        let _guard = tch::no_grad_guard();
        let far = RatioLevel::Sequence.log(&differences(sampler, log_probs), mask);
        let keep = advantages.ge(0.).logical_or(&far.le(self.max_kl));
        keep.to_kind(log_probs.kind())
    }
}
