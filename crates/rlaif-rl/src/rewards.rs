//! The reward of each token.

use rlaif_lm::Mask;
use tch::Tensor;

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
/// let rewards = rlaif_rl::token_rewards(&Tensor::from_slice(&[1f64]), &kl, 0.5, &mask);
/// let rewards = Vec::<f64>::try_from(rewards.view([-1])).unwrap();
/// assert_eq!(rewards, [-0.05, 1.1, 0.]);
/// ```
pub fn token_rewards(scores: &Tensor, kl: &Tensor, coef: f64, mask: &Mask) -> Tensor {
    let penalty = mask.apply(&(kl * -coef));
    penalty + last_token(mask).to_kind(kl.kind()) * scores.to_kind(kl.kind()).unsqueeze(1)
}

/// `true` at the last token of each row that counts, `[B, T]`.
fn last_token(mask: &Mask) -> Tensor {
    let counted = mask.tensor().to_kind(tch::Kind::Int64).cumsum(1, tch::Kind::Int64);
    let total = counted.amax([1i64], true);
    counted.eq_tensor(&total).logical_and(mask.tensor())
}

#[cfg(test)]
mod tests {
    use rlaif_testing::close_to_scale;
    use tch::Kind;

    use super::*;

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
        close_to_scale(&rewards, &[0.05, 0.05, 1.05, 0.1, 0.1, 2.1, 0.15, 0.15, 3.15], 1e-12);
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
        close_to_scale(&rewards, &[0., 1., 0., 0., 0., 2., 0., 0., 0., 4., 0., 0.], 0.);
    }
}
