//! The losses of an update, one function for each equation. All are per token, `[B, T]`: whoever
//! calls them takes the mean, over the tokens that count.

use rlaif_lm::Mask;
use tch::Tensor;

/// What became of the policy's loss, `[B, T]` each.
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
/// let found = rlaif_ppo::policy_loss(&log_probs, &old, &advantages, 0.2, None);
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
    let ratio = (log_probs - old_log_probs).exp();
    let gain = -advantages;
    let plain = &gain * &ratio;
    let clamped = &gain * ratio.clamp(1. - clip, 1. + clip);
    let clipped = clamped.gt_tensor(&plain).to_kind(plain.kind());
    let mut loss = plain.maximum(&clamped);
    if let Some(c) = dual_clip {
        let bound = loss.minimum(&(&gain * c));
        loss = bound.where_self(&advantages.lt(0.), &loss);
    }
    PolicyLoss { loss, ratio: ratio.detach(), clipped }
}

/// What became of the value function's loss, `[B, T]` each.
#[derive(Debug)]
pub struct ValueLoss {
    /// The loss to minimise.
    pub loss: Tensor,
    /// 1 where the clipped branch is the larger one, else 0.
    pub clipped: Tensor,
}

/// The squared error of the values, which does not reward leaving `old ± ε`
/// (OpenAI baselines' `ppo2`; TRL 0.11.4's `PPOTrainer.loss`):
///
/// ```text
/// V'_t = clip(V_t, V_old,t − ε, V_old,t + ε)
/// L_t = ½ max((V_t − R_t)², (V'_t − R_t)²)
/// ```
///
/// Without `clip` it is `½ (V_t − R_t)²`.
///
/// ```
/// use tch::Tensor;
/// let [v, old, returns] = [1f64, 0., 1.].map(|x| Tensor::from_slice(&[x]));
/// let found = rlaif_ppo::value_loss(&v, &old, &returns, Some(0.2));
/// assert!((found.loss.double_value(&[0]) - 0.32).abs() < 1e-12);
/// ```
pub fn value_loss(
    values: &Tensor,
    old_values: &Tensor,
    returns: &Tensor,
    clip: Option<f64>,
) -> ValueLoss {
    let plain = (values - returns).square();
    let Some(clip) = clip else {
        return ValueLoss { clipped: plain.zeros_like().detach(), loss: plain * 0.5 };
    };
    let near = values.maximum(&(old_values - clip)).minimum(&(old_values + clip));
    let clamped = (near - returns).square();
    let clipped = clamped.gt_tensor(&plain).to_kind(plain.kind());
    ValueLoss { loss: plain.maximum(&clamped) * 0.5, clipped }
}

/// The reward of each token: the KL penalty everywhere, the score on the last token that counts
/// (TRL 0.11.4's `PPOTrainer.compute_rewards`):
///
/// ```text
/// r_t = −β KL_t + [t is the last] · score
/// ```
///
/// `kl` is `[B, T]`, `scores` `[B]`; the result is `[B, T]`, 0 where masked. A row without any token
/// that counts has no reward.
///
/// # Panics
/// If the shapes differ.
///
/// ```
/// use rlaif_lm::Mask;
/// use tch::Tensor;
/// let mask = Mask::new(Tensor::from_slice2(&[[true, true, false]]));
/// let kl = Tensor::from_slice2(&[[0.1f64, -0.2, 9.]]);
/// let rewards = rlaif_ppo::token_rewards(&Tensor::from_slice(&[1f64]), &kl, 0.5, &mask);
/// let rewards = Vec::<f64>::try_from(rewards.view([-1])).unwrap();
/// assert_eq!(rewards, [-0.05, 1.1, 0.]);
/// ```
pub fn token_rewards(scores: &Tensor, kl: &Tensor, coef: f64, mask: &Mask) -> Tensor {
    let penalty = mask.apply(&(kl * -coef));
    penalty + last_token(mask).to_kind(kl.kind()) * scores.to_kind(kl.kind()).unsqueeze(1)
}

/// True at the last token of each row that counts, `[B, T]`.
fn last_token(mask: &Mask) -> Tensor {
    let counted = mask.tensor().to_kind(tch::Kind::Int64).cumsum(1, tch::Kind::Int64);
    let total = counted.amax([1i64], true);
    counted.eq_tensor(&total).logical_and(mask.tensor())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::Kind;

    use super::*;

    fn values(t: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(t.to_kind(Kind::Double).reshape([-1])).unwrap()
    }

    fn close(got: &Tensor, want: &[f64], tolerance: f64) {
        let got = values(got);
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() <= tolerance * (1. + w.abs()), "{got:?} {want:?}");
        }
    }

    // The published vector: three responses of three tokens, β 0.5.
    #[test]
    fn rewards_are_the_penalty_and_the_score_at_the_end() {
        let log_probs =
            Tensor::from_slice2(&[[0.1f64, 0.2, 0.3], [0.4, 0.5, 0.6], [0.6, 0.7, 0.8]]);
        let reference = Tensor::from_slice2(&[[0.2f64, 0.3, 0.4], [0.6, 0.7, 0.8], [0.9, 1., 1.1]]);
        let mask = Mask::new(Tensor::ones([3, 3], (Kind::Bool, tch::Device::Cpu)));
        let rewards = token_rewards(
            &Tensor::from_slice(&[1f64, 2., 3.]),
            &(log_probs - reference),
            0.5,
            &mask,
        );
        close(&rewards, &[0.05, 0.05, 1.05, 0.1, 0.1, 2.1, 0.15, 0.15, 3.15], 1e-12);
    }

    #[test]
    fn a_score_lands_on_the_last_token_that_counts_and_nowhere_without_one() {
        let mask = Mask::new(Tensor::from_slice2(&[
            [true, true, false],
            [false, true, true],
            [false, false, false],
            [true, false, false],
        ]));
        let kl = Tensor::full([4, 3], f64::NAN, (Kind::Double, tch::Device::Cpu));
        let kl = kl.where_self(&mask.tensor().logical_not(), &kl.zeros_like());
        let rewards = token_rewards(&Tensor::from_slice(&[1f64, 2., 3., 4.]), &kl, 0.1, &mask);
        close(&rewards, &[0., 1., 0., 0., 0., 2., 0., 0., 0., 4., 0., 0.], 0.);
    }

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
                close(&found.loss, &want, 1e-9);
                // Clipped: moving on in the direction of the advantage changes nothing.
                let clipped: Vec<f64> = tokens
                    .iter()
                    .map(|&(_, x, a)| {
                        let r = x.exp();
                        f64::from(u8::from((a > 0. && r > 1. + clip) || (a < 0. && r < 1. - clip)))
                    })
                    .collect();
                close(&found.clipped, &clipped, 0.);
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
            prop_assert!(values(&found.ratio).iter().all(|&r| r == 1.));
            found.loss.sum(Kind::Double).backward();
            // d(−Â ρ)/d log π = −Â at ρ = 1.
            close(&new.grad(), &values(&-&advantages), 1e-12);
        }

        #[test]
        fn the_value_loss_equals_its_definition_in_f64(
            tokens in prop::collection::vec(token(), 1..20), clip in 0.05f64..0.5,
        ) {
            let column = |f: fn(&(f64, f64, f64)) -> f64| {
                Tensor::from_slice(&tokens.iter().map(f).collect::<Vec<_>>())
            };
            let (old, new, returns) = (column(|t| t.0), column(|t| t.0 + t.1), column(|t| t.2));
            let want = |clip: Option<f64>| -> Vec<f64> {
                tokens
                    .iter()
                    .map(|&(old, move_, r)| {
                        let v = old + move_;
                        let near = clip.map_or(v, |c| v.clamp(old - c, old + c));
                        0.5 * (v - r).powi(2).max((near - r).powi(2))
                    })
                    .collect()
            };
            for clip in [None, Some(clip)] {
                close(&value_loss(&new, &old, &returns, clip).loss, &want(clip), 1e-9);
            }
        }
    }

    #[test]
    fn a_clipped_value_has_no_gradient_away_from_its_return_bound() {
        // Value 1 came from 0 and should be 1: within the clip it must not be pushed further.
        let v = Tensor::from_slice(&[1f64]).set_requires_grad(true);
        let [old, returns] = [0f64, 2.].map(|x| Tensor::from_slice(&[x]));
        value_loss(&v, &old, &returns, Some(0.2)).loss.sum(Kind::Double).backward();
        assert_eq!(v.grad().double_value(&[0]), 0.);
    }
}
