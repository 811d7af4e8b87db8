//! The loss of a token, and the mean over tokens.

use std::num::NonZeroUsize;

use rlaif_lm::Mask;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::rollout::Rollout;

/// Parts of the policy's loss, `[B, T]` each.
#[derive(Debug)]
pub struct PolicyLoss {
    /// The loss to minimise.
    pub loss: Tensor,
    /// ρ_t = π(y_t) / π_old(y_t).
    pub ratio: Tensor,
    /// 1 where a bound takes effect, else 0; with [`Surrogate::Clipped`], where the clipped branch
    /// is the larger one.
    pub clipped: Tensor,
}

/// The clipped surrogate ([Schulman et al. 2017](https://arxiv.org/abs/1707.06347), equation 7),
/// as a loss:
///
/// ```text
/// ρ_t = exp(log π(y_t) − log π_old(y_t))
/// L_t = max(−Â_t ρ_t, −Â_t clip(ρ_t, 1 − ε, 1 + ε))
/// ```
///
/// With `dual_clip` c > 1, the loss of a negative advantage is bounded ([Ye et al.
/// 2020](https://arxiv.org/abs/1912.09729), equation 5): `L_t ← min(L_t, −c Â_t)` where `Â_t < 0`.
///
/// TRL 0.11.4's equivalent is `PPOTrainer.loss`, without the dual clip.
///
/// ```
/// use tch::Tensor;
/// let (log_probs, old) = (Tensor::from_slice(&[0.3f64.ln()]), Tensor::from_slice(&[0.2f64.ln()]));
/// let advantages = Tensor::from_slice(&[2f64]);
/// // The ratio is 1.5; beyond 1.2 nothing more is to be gained.
/// let found = rlaif_rl::policy_loss(&log_probs, &old, &advantages, 0.2, None);
/// assert!((found.loss.double_value(&[0]) + 2. * 1.2).abs() < 1e-9);
/// assert_eq!(found.clipped.double_value(&[0]), 1.);
/// ```
pub fn policy_loss(
    log_probs: &Tensor,
    old_log_probs: &Tensor,
    advantages: &Tensor,
    clip: f64,
    dual_clip: Option<f64>,
) -> PolicyLoss {
    let surrogate = Surrogate::Clipped { low: clip, high: clip, dual_clip };
    surrogate.loss(log_probs, old_log_probs, advantages)
}

/// Loss of a token. ρ is the ratio of the policy to the one that sampled, `sg` stops the gradient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Surrogate {
    /// PPO's loss, see [`policy_loss`], with separate bounds below and above 1. A larger `high` is
    /// clip-higher ([Yu et al. 2025](https://arxiv.org/abs/2503.14476), DAPO).
    Clipped {
        /// The ratio is clipped below 1 minus this.
        low: f64,
        /// The ratio is clipped above 1 plus this.
        high: f64,
        /// c of the dual clip; TRL's `delta`, if it is above 1 + `high`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dual_clip: Option<f64>,
    },
    /// `−Â_t log π(y_t)`, the plain policy gradient ([Williams
    /// 1992](https://doi.org/10.1007/BF00992696)), for one optimizer step on responses of the
    /// current policy.
    Reinforce,
    /// `−sg(clip(ρ_t, least, most)) Â_t log π(y_t)`: CISPO
    /// ([MiniMax 2025](https://arxiv.org/abs/2506.13585)). Every token keeps a gradient. The bounds
    /// are those of the ratio itself: TRL's `epsilon_high` is `most`, verl's `clip_ratio_high` is
    /// `most` minus 1.
    Truncated {
        /// The least weight.
        #[serde(default)]
        least: f64,
        /// The largest weight.
        most: f64,
    },
    /// `−(4 / τ) σ(τ (ρ_t − 1)) Â_t`, a soft gate instead of a clip, with one τ for each sign of
    /// the advantage: SAPO ([Gao et al. 2025](https://arxiv.org/abs/2511.20347)).
    SoftGate {
        /// τ for positive advantages.
        positive: f64,
        /// τ for the others: a larger value, so that negative advantages fade sooner.
        negative: f64,
    },
    /// `−sg(φ(ρ)) Â_t log π(y_t)` with `φ(ρ) = e^λ ρ^k e^(−λρ)`, which is 1 at 1: VESPO
    /// ([Shen et al. 2026](https://arxiv.org/abs/2602.10693)), with the ratio of the response as a
    /// whole.
    Gamma {
        /// k and λ for advantages that are not negative.
        positive: (f64, f64),
        /// k and λ for negative advantages.
        negative: (f64, f64),
    },
    /// `−keep_t Â_t ρ_t + penalty (log ρ_t)²`, where `keep_t` is 0 if the probability of the token
    /// has changed by more than `bound` in the direction of the advantage, and else 1: DPPO ([Qi et
    /// al. 2026](https://arxiv.org/abs/2602.04879)) with binary total variation, as in prime-rl.
    TotalVariation {
        /// Maximum change of a token's probability.
        bound: f64,
        /// Weight of the squared logarithm of the ratio.
        penalty: f64,
    },
}

/// Bounds of the logarithm of a response's ratio in [`Surrogate::Gamma`], as in TRL.
const LOG_RATIO: (f64, f64) = (-18.420_680_743_952_367, 20.);

impl Surrogate {
    /// The loss of each token. All tensors are `[B, T]`.
    ///
    /// ```
    /// use rlaif_rl::Surrogate;
    /// use tch::Tensor;
    /// let [log_probs, old, gains] = [-1.5f64, -1., 2.].map(|x| Tensor::from_slice(&[x]));
    /// let found = Surrogate::Reinforce.loss(&log_probs, &old, &gains);
    /// assert_eq!(found.loss.double_value(&[0]), 3.);
    /// ```
    pub fn loss(
        self,
        log_probs: &Tensor,
        old_log_probs: &Tensor,
        advantages: &Tensor,
    ) -> PolicyLoss {
        self.of_ratio(&(log_probs - old_log_probs).exp(), log_probs, old_log_probs, advantages)
    }

    /// The loss of each token with the ratio of another level ([`crate::RatioLevel`]): `ratio` is
    /// `[B, T]` or `[B, 1]`, the others are `[B, T]`.
    pub fn of_ratio(
        self,
        ratio: &Tensor,
        log_probs: &Tensor,
        old_log_probs: &Tensor,
        advantages: &Tensor,
    ) -> PolicyLoss {
        let kind = log_probs.kind();
        let by_sign = |sign: &Tensor, yes: f64, no: f64| {
            let number = |x: f64| Tensor::full([], x, (kind, log_probs.device()));
            number(yes).where_self(sign, &number(no))
        };
        let (loss, clipped) = match self {
            Self::Clipped { low, high, dual_clip } => {
                let gain = -advantages;
                let plain = &gain * ratio;
                let clamped = &gain * ratio.clamp(1. - low, 1. + high);
                let clipped = clamped.gt_tensor(&plain).to_kind(kind);
                let mut loss = plain.maximum(&clamped);
                if let Some(c) = dual_clip {
                    let bound = loss.minimum(&(&gain * c));
                    loss = bound.where_self(&advantages.lt(0.), &loss);
                }
                (loss, clipped)
            }
            Self::Reinforce => (-advantages * log_probs, log_probs.zeros_like()),
            Self::Truncated { least, most } => {
                let detached = ratio.detach();
                let beyond = detached.lt(least).logical_or(&detached.gt(most)).to_kind(kind);
                let loss = -detached.clamp(least, most) * advantages * log_probs;
                (loss, beyond.expand_as(log_probs))
            }
            Self::SoftGate { positive, negative } => {
                let temperature = by_sign(&advantages.gt(0.), positive, negative);
                let gate = (&temperature * (ratio - 1.)).sigmoid() * 4. / temperature;
                (-gate * advantages, log_probs.zeros_like())
            }
            Self::Gamma { positive, negative } => {
                let sign = advantages.ge(0.);
                let k = by_sign(&sign, positive.0, negative.0);
                let lambda = by_sign(&sign, positive.1, negative.1);
                let log_ratio = ratio.detach().log();
                let bounded = log_ratio.clamp(LOG_RATIO.0, LOG_RATIO.1);
                let beyond = bounded.ne_tensor(&log_ratio).to_kind(kind);
                let phi = (&lambda + k * &bounded - &lambda * bounded.exp()).exp();
                (-phi * advantages * log_probs, beyond.expand_as(log_probs))
            }
            Self::TotalVariation { bound, penalty } => {
                let moved = log_probs.detach().exp() - old_log_probs.exp();
                let away = moved.gt(bound).where_self(&advantages.gt(0.), &moved.lt(-bound));
                let keep = away.logical_not().to_kind(kind);
                let squared = (log_probs - old_log_probs).square() * penalty;
                (-keep * advantages * ratio + squared, away.to_kind(kind))
            }
        };
        PolicyLoss { loss, ratio: ratio.detach(), clipped: clipped.detach() }
    }
}

/// Reduction of token losses to one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// The mean over all tokens that count: long responses have more weight.
    #[default]
    Tokens,
    /// The mean over responses of the mean over their tokens
    /// ([Shao et al. 2024](https://arxiv.org/abs/2402.03300), GRPO).
    Responses,
    /// The sum over the tokens of a response divided by this constant, and the mean over responses
    /// ([Liu et al. 2025](https://arxiv.org/abs/2503.20783), Dr. GRPO).
    Constant(NonZeroUsize),
}

impl Average {
    /// The mean of `x` `[B, T]` over the tokens that count, a scalar.
    ///
    /// ```
    /// use rlaif_lm::Mask;
    /// use rlaif_rl::Average;
    /// use tch::Tensor;
    /// let mask = Mask::new(Tensor::from_slice2(&[[true, true, true], [true, false, false]]));
    /// let x = Tensor::from_slice2(&[[1f64, 2., 3.], [10., 0., 0.]]);
    /// let mean = |average: Average| average.of(&x, &mask).double_value(&[]);
    /// assert_eq!(mean(Average::Tokens), 4.);
    /// assert_eq!(mean(Average::Responses), 6.);
    /// assert_eq!(mean(Average::Constant(4.try_into()?)), 2.);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(self, x: &Tensor, mask: &Mask) -> Tensor {
        match self {
            Self::Tokens => mask.mean(x),
            Self::Responses | Self::Constant(_) => {
                self.sum(x, mask) / self.count(mask).clamp_min(1.)
            }
        }
    }

    /// The numerator of the mean, a scalar: a mean over an optimizer batch is the sum of its parts'
    /// numerators over the sum of their [counts](Self::count).
    pub fn sum(self, x: &Tensor, mask: &Mask) -> Tensor {
        let of_rows = match self {
            Self::Tokens => return mask.sum(x),
            Self::Responses => {
                let lengths = mask.tensor().sum_dim_intlist(1, false, x.kind());
                mask.row_sums(x) / lengths.clamp_min(1.)
            }
            Self::Constant(n) => mask.row_sums(x) / n.get() as f64,
        };
        of_rows.sum(x.kind())
    }

    /// The denominator of the mean, a scalar: the number of tokens that count, or of responses with
    /// such a token.
    pub fn count(self, mask: &Mask) -> Tensor {
        match self {
            Self::Tokens => mask.count(),
            Self::Responses | Self::Constant(_) => mask.tensor().any_dim(1, false).sum(Kind::Float),
        }
    }

    /// The weight of some rows among those of a rollout: the mean over a minibatch is the mean of
    /// its parts' means with these weights.
    pub fn weight(self, rollout: &Rollout, rows: &[usize]) -> f64 {
        match self {
            Self::Tokens => rollout.tokens_of(rows) as f64,
            Self::Responses | Self::Constant(_) => {
                rows.iter().filter(|&&row| rollout.tokens(row) > 0).count() as f64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rlaif_testing::{close_to_scale, numbers};
    use tch::Kind;

    use super::*;

    fn token() -> impl Strategy<Value = (f64, f64, f64)> {
        (-6f64..0., -1.5f64..1.5, -3f64..3.)
    }

    proptest! {
        #[test]
        fn the_policy_loss_equals_its_definition_in_f64(
            tokens in prop::collection::vec(token(), 1..20), clip in 0.05f64..0.5, c in 1.1f64..4.,
        ) {
            let column = |f: fn(&(f64, f64, f64)) -> f64| {
                Tensor::from_slice(&tokens.iter().map(f).collect::<Vec<_>>())
            };
            let (old, new) = (column(|t| t.0), column(|t| t.0 + t.1));
            let advantages = column(|t| t.2);
            for dual in [None, Some(c)] {
                let found = policy_loss(&new, &old, &advantages, clip, dual);
                let want: Vec<f64> = tokens
                    .iter()
                    .map(|&(_, x, a)| {
                        let surrogate =
                            (a * x.exp()).min(a * x.exp().clamp(1. - clip, 1. + clip));
                        match dual {
                            Some(c) if a < 0. => -surrogate.max(c * a),
                            _ => -surrogate,
                        }
                    })
                    .collect();
                close_to_scale(&found.loss, &want, 1e-9);
                // Clipped: a further change in the direction of the advantage has no effect.
                let clipped: Vec<f64> = tokens
                    .iter()
                    .map(|&(_, x, a)| {
                        let r = x.exp();
                        f64::from(u8::from((a > 0. && r > 1. + clip) || (a < 0. && r < 1. - clip)))
                    })
                    .collect();
                close_to_scale(&found.clipped, &clipped, 0.);
            }
        }

        #[test]
        fn at_the_old_policy_the_gradient_is_the_plain_policy_gradient(
            tokens in prop::collection::vec(token(), 1..20)
        ) {
            let old = Tensor::from_slice(&tokens.iter().map(|t| t.0).collect::<Vec<_>>());
            let advantages = Tensor::from_slice(&tokens.iter().map(|t| t.2).collect::<Vec<_>>());
            let new = old.copy().set_requires_grad(true);
            let found = policy_loss(&new, &old, &advantages, 0.2, Some(3.));
            prop_assert_eq!(found.clipped.sum(Kind::Double).double_value(&[]), 0.);
            prop_assert!(numbers(&found.ratio).iter().all(|&r| r == 1.));
            found.loss.sum(Kind::Double).backward();
            // d(−Â ρ)/d log π = −Â at ρ = 1.
            close_to_scale(&new.grad(), &numbers(&-&advantages), 1e-12);
        }
    }
}
