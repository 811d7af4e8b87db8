//! The loss of a token, and the mean over tokens that is minimised.

use rlaif_lm::Mask;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::rollout::Rollout;

/// Parts of the policy's loss, `[B, T]` each.
#[derive(Debug)]
pub struct PolicyLoss {
    /// The loss to minimise.
    pub loss: Tensor,
    /// ρ_t = π(y_t) / π_old(y_t).
    pub ratio: Tensor,
    /// 1 where the clipped branch is the larger one, else 0.
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
/// With `dual_clip` c > 1, a negative advantage costs no more than c times itself
/// ([Ye et al. 2020](https://arxiv.org/abs/1912.09729), equation 5): `L_t ← min(L_t, −c Â_t)`
/// where `Â_t < 0`.
///
/// TRL 0.11.4 is `PPOTrainer.loss`; it has no dual clip.
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
    let surrogate = Surrogate::Clipped { low: clip, high: clip, dual: dual_clip };
    surrogate.loss(log_probs, old_log_probs, advantages)
}

/// Loss of a token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Surrogate {
    /// PPO's, see [`policy_loss`], with a range of its own on each side of 1.
    Clipped {
        /// The ratio is clipped below 1 minus this.
        low: f64,
        /// The ratio is clipped above 1 plus this.
        high: f64,
        /// c of the dual clip.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dual: Option<f64>,
    },
    /// `−Â_t log π(y_t)`, the plain policy gradient
    /// ([Williams 1992](https://doi.org/10.1007/BF00992696)): for one optimizer step on responses
    /// of the present policy.
    Reinforce,
}

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
        let ratio = (log_probs - old_log_probs).exp();
        match self {
            Self::Clipped { low, high, dual } => {
                let gain = -advantages;
                let plain = &gain * &ratio;
                let clamped = &gain * ratio.clamp(1. - low, 1. + high);
                let clipped = clamped.gt_tensor(&plain).to_kind(plain.kind());
                let mut loss = plain.maximum(&clamped);
                if let Some(c) = dual {
                    let bound = loss.minimum(&(&gain * c));
                    loss = bound.where_self(&advantages.lt(0.), &loss);
                }
                PolicyLoss { loss, ratio: ratio.detach(), clipped }
            }
            Self::Reinforce => PolicyLoss {
                loss: -advantages * log_probs,
                clipped: ratio.zeros_like().detach(),
                ratio: ratio.detach(),
            },
        }
    }
}

/// Reduction of the losses of tokens to one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// The mean over all tokens that count: long responses weigh more.
    #[default]
    Tokens,
    /// The mean over responses of the mean over their tokens
    /// ([Shao et al. 2024](https://arxiv.org/abs/2402.03300), GRPO).
    Responses,
    /// The sum over the tokens of a response divided by this constant, and the mean over responses
    /// ([Liu et al. 2025](https://arxiv.org/abs/2503.20783), Dr. GRPO).
    Constant(usize),
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
    /// assert_eq!(mean(Average::Constant(4)), 2.);
    /// ```
    pub fn of(self, x: &Tensor, mask: &Mask) -> Tensor {
        if self == Self::Tokens {
            return mask.mean(x);
        }
        let lengths = mask.tensor().sum_dim_intlist(1, false, x.kind());
        let rows = lengths.gt(0.).sum(x.kind()).clamp_min(1.);
        let sums = mask.row_sums(x);
        let of_rows = match self {
            Self::Tokens => unreachable!("returned above"),
            Self::Responses => sums / lengths.clamp_min(1.),
            Self::Constant(n) => sums / n as f64,
        };
        of_rows.sum(x.kind()) / rows
    }

    /// The weight of some rows of a rollout beside others: the mean over a minibatch is the mean
    /// of its parts' means by these weights.
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
                // Clipped: moving on in the direction of the advantage changes nothing.
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
