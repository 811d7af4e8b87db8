//! Generalized advantage estimation over response tokens.

use rlaif_lm::Mask;
use tch::Tensor;

/// The targets of an update, f32 `[B, T]` each, 0 where masked.
#[derive(Debug)]
pub struct Advantages {
    /// Â_t: the advantage of token t over the value function's expectation.
    pub advantages: Tensor,
    /// R_t = Â_t + V_t: the target of the value function; taken before any whitening.
    pub returns: Tensor,
    /// Seconds of each phase of their computation, if it was measured.
    pub seconds: Vec<(&'static str, f64)>,
}

impl Advantages {
    /// Advantages and returns, without measured seconds.
    pub fn new(advantages: Tensor, returns: Tensor) -> Self {
        Self { advantages, returns, seconds: Vec::new() }
    }
}

/// Generalized advantage estimation ([Schulman et al. 2016](https://arxiv.org/abs/1506.02438),
/// equations 11 and 16), from the right, within each response:
///
/// ```text
/// δ_t = r_t + γ V_{t+1} − V_t          V is 0 behind the last token
/// Â_t = δ_t + γ λ Â_{t+1}              R_t = Â_t + V_t
/// ```
///
/// `rewards` and `values` are `[B, T]`; their masked elements are ignored. Tokens that do not count between
/// others, such as those of an environment, are skipped: t + 1 is the next token that counts.
///
/// # Panics
/// If the shapes differ.
///
/// ```
/// use rlaif_lm::Mask;
/// use tch::Tensor;
/// let (rewards, values) = (Tensor::from_slice2(&[[0f32, 1.]]), Tensor::from_slice2(&[[0.5f32, 0.5]]));
/// let mask = Mask::new(Tensor::from_slice2(&[[true, true]]));
/// let found = rlaif_train::gae(&rewards, &values, &mask, 1., 1.);
/// assert_eq!(Vec::<f32>::try_from(found.advantages.view([-1])).unwrap(), [0.5, 0.5]);
/// assert_eq!(Vec::<f32>::try_from(found.returns.view([-1])).unwrap(), [1., 1.]);
/// ```
pub fn gae(rewards: &Tensor, values: &Tensor, mask: &Mask, gamma: f64, lambda: f64) -> Advantages {
    let (rewards, values) = (mask.apply(rewards), mask.apply(values));
    let width = rewards.size()[1];
    let mut reversed = Vec::new();
    let mut next: Option<(Tensor, Tensor)> = None;
    for t in (0..width).rev() {
        let value = values.select(1, t);
        let mut advantage = rewards.select(1, t) - &value;
        if let Some((next_value, next_advantage)) = &next {
            advantage = (advantage + next_value * gamma) + next_advantage * (gamma * lambda);
        }
        reversed.push(advantage.shallow_clone());
        next = Some(match next {
            Some((next_value, next_advantage)) => {
                let real = mask.tensor().select(1, t);
                (value.where_self(&real, &next_value), advantage.where_self(&real, &next_advantage))
            }
            None => (value, advantage),
        });
    }
    reversed.reverse();
    if reversed.is_empty() {
        return Advantages::new(rewards.shallow_clone(), rewards);
    }
    // Columns that do not count have those of others.
    let advantages = mask.apply(&Tensor::stack(&reversed, 1));
    let returns = &advantages + values;
    Advantages::new(advantages, returns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rlaif_lm::Whiten;
    use rlaif_testing::close;
    use tch::Kind;

    use super::*;

    fn row(values: &[f64]) -> Tensor {
        Tensor::from_slice(values).view([1, -1])
    }

    // The published vectors: OpenAI's lm-human-preferences and torchtune.
    #[test]
    fn it_gives_published_numbers() {
        let all = |n: usize| Mask::new(Tensor::from_slice(&vec![true; n]).view([1, -1]));
        let x = row(&[0., 0., 0., 1.]);
        close(&gae(&x, &x, &all(4), 0.9, 0.95).returns, &[0.657_922_5, 0.7695, 0.9, 1.], 1e-9);
        let rewards = row(&[-0.02, -0.01, 0.03, 1.]);
        let values = row(&[0.1, 0.2, 0.3, 0.4]);
        let found = gae(&rewards, &values, &all(4), 1., 0.95);
        close(&found.advantages, &[0.797_25, 0.755, 0.7, 0.6], 1e-9);
        close(&found.returns, &[0.897_25, 0.955, 1., 1.], 1e-9);
        let white = all(4).whiten(&found.advantages, Whiten::Centered);
        close(&white, &[0.987_596, 0.491_965, -0.153_235, -1.326_326], 1e-5);
    }

    #[test]
    fn a_batch_without_a_token_has_no_advantage() {
        let empty = Tensor::zeros([2, 0], (Kind::Float, tch::Device::Cpu));
        let mask = Mask::new(empty.to_kind(Kind::Bool));
        assert_eq!(gae(&empty, &empty, &mask, 1., 0.95).advantages.size(), [2, 0]);
    }

    /// The definition, token by token.
    fn reference(rewards: &[f64], values: &[f64], gamma: f64, lambda: f64) -> Vec<f64> {
        let n = rewards.len();
        let delta =
            |t: usize| rewards[t] + gamma * values.get(t + 1).copied().unwrap_or(0.) - values[t];
        (0..n)
            .map(|t| (t..n).map(|s| (gamma * lambda).powi((s - t) as i32) * delta(s)).sum())
            .collect()
    }

    proptest! {
        #[test]
        fn it_equals_the_definition_and_padding_does_not_matter(
            rows in prop::collection::vec((-2f64..2., -2f64..2.), 1..12),
            before in 0usize..3,
            after in 0usize..4,
            gamma in 0.5f64..1.,
            lambda in 0f64..1.,
        ) {
            let (rewards, values): (Vec<f64>, Vec<f64>) = rows.iter().copied().unzip();
            let want = reference(&rewards, &values, gamma, lambda);
            let padded = |x: &[f64]| {
                row(&[vec![f64::NAN; before], x.to_vec(), vec![f64::INFINITY; after]].concat())
            };
            let real = [vec![false; before], vec![true; rows.len()], vec![false; after]].concat();
            let mask = Mask::new(Tensor::from_slice(&real).view([1, -1]));
            let found = gae(&padded(&rewards), &padded(&values), &mask, gamma, lambda);
            let inner = |x: &Tensor| x.narrow(1, before as i64, rows.len() as i64);
            close(&inner(&found.advantages), &want, 1e-9);
            let returns: Vec<f64> = want.iter().zip(&values).map(|(a, v)| a + v).collect();
            close(&inner(&found.returns), &returns, 1e-9);
            prop_assert!(found.advantages.isfinite().all().int64_value(&[]) == 1);
            let outside = found.advantages.abs().sum(Kind::Double)
                - inner(&found.advantages).abs().sum(Kind::Double);
            prop_assert!(outside.double_value(&[]).abs() < 1e-9);
        }

        #[test]
        fn tokens_of_others_between_are_skipped(
            rows in prop::collection::vec((-2f64..2., -2f64..2., 0usize..3), 1..12),
            gamma in 0.5f64..1.,
            lambda in 0f64..1.,
        ) {
            let (mut x, mut v, mut real) = (Vec::new(), Vec::new(), Vec::new());
            for &(reward, value, others) in &rows {
                x.extend(vec![f64::NAN; others]);
                v.extend(vec![7.; others]);
                real.extend(vec![false; others]);
                x.push(reward);
                v.push(value);
                real.push(true);
            }
            let mask = Mask::new(Tensor::from_slice(&real).view([1, -1]));
            let found = gae(&row(&x), &row(&v), &mask, gamma, lambda).advantages;
            let (rewards, values): (Vec<f64>, Vec<f64>) = rows.iter().map(|r| (r.0, r.1)).unzip();
            let own = found.masked_select(mask.tensor());
            close(&own, &reference(&rewards, &values, gamma, lambda), 1e-9);
        }

        #[test]
        fn without_discount_it_is_the_reward_to_go_less_the_value(
            rows in prop::collection::vec((-2f64..2., -2f64..2.), 1..12)
        ) {
            let (rewards, values): (Vec<f64>, Vec<f64>) = rows.iter().copied().unzip();
            let mask = Mask::new(Tensor::from_slice(&vec![true; rows.len()]).view([1, -1]));
            let found = gae(&row(&rewards), &row(&values), &mask, 1., 1.);
            let to_go: Vec<f64> = (0..rows.len()).map(|t| rewards[t..].iter().sum()).collect();
            close(&found.returns, &to_go, 1e-9);
        }
    }
}
