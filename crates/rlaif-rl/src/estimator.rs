//! Advantages without a value function: comparison of a response with others.

use rlaif_lm::{Mask, Whiten};
use rlaif_train::Advantages;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{advantage::Advantage, batch::host, error::RlError, groups::Groups, rollout::Rollout};

/// An estimator of advantages without a value function.
///
/// `r_i` is the sum of the rewards of response i, `k` the number of responses to its prompt that
/// have a score. A response without a score (and so without a token that counts) has the advantage
/// 0 and enters no mean and no deviation. If no other response has a score, the advantage is 0 as
/// well.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AdvantageEstimator {
    /// `(r_i − mean of the group) / scale`: GRPO
    /// ([Shao et al. 2024](https://arxiv.org/abs/2402.03300)) with the scale `group`, Dr. GRPO
    /// ([Liu et al. 2025](https://arxiv.org/abs/2503.20783)) with `none`.
    GroupMean {
        /// The divisor.
        scale: AdvantageScale,
    },
    /// `(r_i − mean of the others of the group) / scale`: RLOO
    /// ([Ahmadian et al. 2024](https://arxiv.org/abs/2402.14740)).
    LeaveOneOut {
        /// The divisor.
        scale: AdvantageScale,
    },
    /// `r_i − Σ_j |y_j| r_j / Σ_j |y_j|` over the group, the baseline of least variance if the
    /// gradients of tokens are alike: OPO ([Hao et al. 2025](https://arxiv.org/abs/2505.23585)).
    LengthWeighted,
    /// `r_i − r` of the greedy response to the prompt: ReMax
    /// ([Li et al. 2023](https://arxiv.org/abs/2310.10505)).
    Greedy,
    /// `Σ_{s≥t} γ^{s−t} r_{i,s}` of each token, whitened over the tokens of the batch: REINFORCE++
    /// ([Hu et al. 2025](https://arxiv.org/abs/2501.03262)).
    ToGo {
        /// Discount γ.
        gamma: f64,
    },
    /// `r_i − mean of the group`, whitened over the tokens of the batch: REINFORCE++-baseline.
    WhitenedGroupMean,
    /// `Σ (r_s − mean) / (std + eps)` over the steps s of the response that end at the token or later,
    /// with mean and standard deviation of the scores of all steps of the group: GRPO with process
    /// supervision ([Shao et al. 2024](https://arxiv.org/abs/2402.03300), 4.1.3).
    GroupSteps {
        /// Added to the deviation.
        eps: f64,
    },
}

/// Divisor of a response's advantage. Standard deviations have Bessel's correction (n − 1).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AdvantageScale {
    /// 1.
    None,
    /// The standard deviation of the rewards of the group, plus `eps`: easy and hard prompts weigh
    /// more than those in between.
    Group {
        /// Added to the deviation: 1e-4 in TRL, 1e-6 in verl.
        eps: f64,
    },
    /// The standard deviation of the rewards of the whole batch, plus `eps`.
    Batch {
        /// Added to the deviation.
        eps: f64,
    },
    /// Advantages less their mean over the batch, divided by their standard deviation plus `eps`:
    /// `normalize_advantages` of TRL's RLOO.
    Whitened {
        /// Added to the deviation.
        eps: f64,
    },
}

/// The rewards of a batch, as the input of an [`AdvantageEstimator`].
#[derive(Debug, Clone, Copy)]
pub struct Rewarded<'a> {
    /// The reward of each token, `[B, T]` ([`crate::token_rewards`]).
    pub rewards: &'a Tensor,
    /// The tokens that count; a response without a score has none.
    pub mask: &'a Mask,
    /// The rows of each prompt.
    pub groups: &'a Groups,
    /// The score of the greedy response to the prompt of each row, for
    /// [`AdvantageEstimator::Greedy`].
    pub greedy: Option<&'a [Option<f64>]>,
    /// The last token of each step and its score, by row, for [`AdvantageEstimator::GroupSteps`].
    pub steps: Option<&'a [Vec<(usize, f64)>]>,
}

impl AdvantageEstimator {
    /// The advantage of each token, `[B, T]` in the dtype of the rewards, 0 where masked.
    ///
    /// # Errors
    /// [`RlError::NoGreedy`], [`RlError::NoSteps`] if the scores of greedy responses or of steps are
    /// needed and absent.
    ///
    /// ```
    /// use rlaif_lm::Mask;
    /// use rlaif_rl::{AdvantageEstimator, Groups, Rewarded, AdvantageScale};
    /// use tch::Tensor;
    /// // One token for each of three responses to a prompt.
    /// let rewards = Tensor::from_slice2(&[[1f64], [0.], [5.]]);
    /// let mask = Mask::new(Tensor::from_slice2(&[[true], [true], [true]]));
    /// let groups = Groups::of_size(3, 3);
    /// let batch =
    ///     Rewarded { rewards: &rewards, mask: &mask, groups: &groups, greedy: None, steps: None };
    /// let found = AdvantageEstimator::LeaveOneOut { scale: AdvantageScale::None }.estimate(batch)?;
    /// assert_eq!(Vec::<f64>::try_from(found.view([-1])).unwrap(), [-1.5, -3., 4.5]);
    /// # Ok::<(), rlaif_rl::RlError>(())
    /// ```
    pub fn estimate(self, batch: Rewarded<'_>) -> Result<Tensor, RlError> {
        let rows = Rows::of(&batch);
        let spread = |values: Vec<f64>| {
            let values = Tensor::from_slice(&values).to_device(batch.rewards.device());
            let values = values.to_kind(batch.rewards.kind()).unsqueeze(1);
            batch.mask.apply(&values.expand_as(batch.rewards))
        };
        Ok(match self {
            Self::GroupMean { scale } => {
                spread(scale.of(rows.less(batch.groups, Rows::mean), &rows, batch.groups))
            }
            Self::LeaveOneOut { scale } => {
                spread(scale.of(rows.less(batch.groups, Rows::mean_of_others), &rows, batch.groups))
            }
            Self::LengthWeighted => spread(rows.less(batch.groups, Rows::mean_by_length)),
            Self::Greedy => {
                let greedy = batch.greedy.filter(|greedy| greedy.len() == rows.sums.len());
                let greedy = greedy.ok_or(RlError::NoGreedy)?;
                let of_row = |row: usize| match greedy[row] {
                    Some(score) if rows.counts(row) => rows.sums[row] - score,
                    _ => 0.,
                };
                spread((0..rows.sums.len()).map(of_row).collect())
            }
            Self::ToGo { gamma } => {
                let returns = returns_to_go(batch.rewards, batch.mask, gamma);
                whitened(&returns, batch.mask, &rows)
            }
            Self::WhitenedGroupMean => {
                let advantages = spread(rows.less(batch.groups, Rows::mean));
                whitened(&advantages, batch.mask, &rows)
            }
            Self::GroupSteps { eps } => of_steps(&batch, &rows, eps)?,
        })
    }

    /// `true` if the estimator compares responses within a group: then a group of one has no
    /// learning signal.
    pub fn compares_groups(self) -> bool {
        !matches!(self, Self::Greedy | Self::ToGo { .. })
    }

    /// `true` if advantages are divided by the standard deviation of a group.
    pub(crate) fn divides_by_group(self) -> bool {
        matches!(
            self,
            Self::GroupMean { scale: AdvantageScale::Group { .. } }
                | Self::LeaveOneOut { scale: AdvantageScale::Group { .. } }
        )
    }

    /// `true` if the estimator reads the scores of steps, and not the rewards of tokens.
    pub fn needs_steps(self) -> bool {
        matches!(self, Self::GroupSteps { .. })
    }

    /// The numbers among the settings, with their places in the combination.
    pub(crate) fn numbers(self) -> Vec<(&'static str, f64)> {
        let of_scale = |scale| match scale {
            AdvantageScale::None => Vec::new(),
            AdvantageScale::Group { eps }
            | AdvantageScale::Batch { eps }
            | AdvantageScale::Whitened { eps } => {
                vec![("advantage.scale.eps", eps)]
            }
        };
        match self {
            Self::GroupMean { scale } | Self::LeaveOneOut { scale } => of_scale(scale),
            Self::ToGo { gamma } => vec![("advantage.to_go.gamma", gamma)],
            Self::GroupSteps { eps } => vec![("advantage.group_steps.eps", eps)],
            Self::LengthWeighted | Self::Greedy | Self::WhitenedGroupMean => Vec::new(),
        }
    }
}

impl Advantage for AdvantageEstimator {
    /// The estimate, with groups by the ids of the rollout's records.
    fn of(&self, rollout: &Rollout, rewards: &Tensor) -> Result<Advantages, RlError> {
        let groups = Groups::of_records(&rollout.records);
        let mask = &rollout.mask;
        let advantages =
            self.estimate(Rewarded { rewards, mask, groups: &groups, greedy: None, steps: None })?;
        let sums = mask.row_sums(rewards).unsqueeze(1);
        Ok(Advantages::new(advantages, mask.apply(&sums.expand_as(rewards))))
    }
}

/// `Σ_{s≥t} γ^{s−t} r_s` over the tokens that count, `[B, T]`, 0 elsewhere. Tokens that do not
/// count add nothing and no discount.
pub fn returns_to_go(rewards: &Tensor, mask: &Mask, gamma: f64) -> Tensor {
    let rewards = mask.apply(rewards);
    let width = rewards.size()[1];
    let mut carry = Tensor::zeros([rewards.size()[0]], (rewards.kind(), rewards.device()));
    let mut columns = Vec::new();
    for t in (0..width).rev() {
        let real = mask.tensor().select(1, t);
        let here = rewards.select(1, t) + &carry * gamma;
        carry = here.where_self(&real, &carry);
        columns.push(carry.shallow_clone());
    }
    columns.reverse();
    mask.apply(&Tensor::stack(&columns, 1))
}

/// The sums of the normalised scores of the steps that are not over yet, at each token.
fn of_steps(batch: &Rewarded<'_>, rows: &Rows, eps: f64) -> Result<Tensor, RlError> {
    let steps = batch.steps.unwrap_or_default();
    let width = batch.rewards.size()[1] as usize;
    let mut out = vec![0f64; rows.sums.len() * width];
    for group in batch.groups.rows() {
        let counted = rows.counted(group);
        for &row in &counted {
            if steps.get(row).is_none_or(Vec::is_empty) {
                return Err(RlError::NoSteps { row });
            }
        }
        let scores: Vec<f64> =
            counted.iter().flat_map(|&row| steps[row].iter().map(|(_, score)| *score)).collect();
        // Equal scores teach nothing, and have no deviation to divide by.
        let Some(std) = deviation(scores.iter().copied()).filter(|std| *std > 0.) else { continue };
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        for &row in &counted {
            for (last, score) in &steps[row] {
                let part = (score - mean) / (std + eps);
                out[row * width..][..width.min(last + 1)].iter_mut().for_each(|a| *a += part);
            }
        }
    }
    let advantages = Tensor::from_slice(&out).view_as(batch.rewards);
    let advantages = advantages.to_kind(batch.rewards.kind()).to_device(batch.rewards.device());
    Ok(batch.mask.apply(&advantages))
}

/// Whitens over tokens. With fewer than two tokens there is no variance, and advantages are 0.
fn whitened(x: &Tensor, mask: &Mask, rows: &Rows) -> Tensor {
    let tokens: usize = rows.lengths.iter().sum();
    if tokens < 2 { x.zeros_like() } else { mask.whiten(x, Whiten::Centered) }
}

/// The sums of rewards of the rows, and their numbers of tokens that count.
struct Rows {
    sums: Vec<f64>,
    lengths: Vec<usize>,
}

impl Rows {
    fn of(batch: &Rewarded<'_>) -> Self {
        let sums = host(&batch.mask.row_sums(&batch.rewards.to_kind(Kind::Double)));
        let lengths = batch.mask.tensor().sum_dim_intlist(1, false, Kind::Int64);
        let lengths = host(&lengths).into_iter().map(|n| n as usize).collect();
        Self { sums, lengths }
    }

    fn counts(&self, row: usize) -> bool {
        self.lengths[row] > 0
    }

    /// Subtracts a baseline from the sum of each row. The baseline is computed from the rows of its
    /// group that count. The result is exactly 0 if there is only one such row, or all are equal.
    fn less(&self, groups: &Groups, baseline: fn(&Self, &[usize], usize) -> f64) -> Vec<f64> {
        let mut out = vec![0.; self.sums.len()];
        for group in groups.rows() {
            let rows = self.counted(group);
            let differs = rows.iter().any(|&row| self.sums[row] != self.sums[rows[0]]);
            for &row in rows.iter().filter(|_| differs) {
                out[row] = self.sums[row] - baseline(self, &rows, row);
            }
        }
        out
    }

    fn counted(&self, group: &[usize]) -> Vec<usize> {
        group.iter().copied().filter(|&row| self.counts(row)).collect()
    }

    fn mean(&self, rows: &[usize], _: usize) -> f64 {
        rows.iter().map(|&row| self.sums[row]).sum::<f64>() / rows.len() as f64
    }

    fn mean_of_others(&self, rows: &[usize], own: usize) -> f64 {
        let others = rows.iter().filter(|&&row| row != own).map(|&row| self.sums[row]);
        others.sum::<f64>() / (rows.len() - 1) as f64
    }

    fn mean_by_length(&self, rows: &[usize], _: usize) -> f64 {
        let weighed = rows.iter().map(|&row| self.lengths[row] as f64 * self.sums[row]);
        let tokens: usize = rows.iter().map(|&row| self.lengths[row]).sum();
        weighed.sum::<f64>() / tokens as f64
    }

    /// The standard deviation of the rewards of some rows; `None` for fewer than two.
    fn deviation(&self, rows: &[usize]) -> Option<f64> {
        deviation(rows.iter().map(|&row| self.sums[row]))
    }
}

/// The standard deviation with Bessel's correction; `None` for fewer than two values.
fn deviation(values: impl Iterator<Item = f64> + Clone) -> Option<f64> {
    let n = values.clone().count();
    if n < 2 {
        return None;
    }
    let mean = values.clone().sum::<f64>() / n as f64;
    let squares: f64 = values.map(|x| (x - mean).powi(2)).sum();
    Some((squares / (n - 1) as f64).sqrt())
}

impl AdvantageScale {
    fn of(self, mut advantages: Vec<f64>, rows: &Rows, groups: &Groups) -> Vec<f64> {
        let all: Vec<usize> = (0..rows.sums.len()).filter(|&row| rows.counts(row)).collect();
        let mut divide = |rows: &[usize], by: Option<f64>| {
            for &row in rows {
                // An advantage of 0 stays 0, even without a deviation.
                if advantages[row] != 0. {
                    advantages[row] = by.map_or(0., |by| advantages[row] / by);
                }
            }
        };
        match self {
            Self::None => {}
            Self::Group { eps } => {
                for group in groups.rows() {
                    let counted = rows.counted(group);
                    divide(&counted, rows.deviation(&counted).map(|std| std + eps));
                }
            }
            Self::Batch { eps } => divide(&all, rows.deviation(&all).map(|std| std + eps)),
            Self::Whitened { eps } => {
                let of_rows = all.iter().map(|&row| advantages[row]);
                let mean = of_rows.clone().sum::<f64>() / all.len().max(1) as f64;
                let std = deviation(of_rows);
                for &row in &all {
                    advantages[row] = std.map_or(0., |std| (advantages[row] - mean) / (std + eps));
                }
            }
        }
        advantages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::int;

    fn estimate(
        estimator: AdvantageEstimator,
        rewards: &[f64],
        counted: &[bool],
        size: usize,
    ) -> Vec<f64> {
        let n = int(rewards.len());
        let rewards = Tensor::from_slice(rewards).view([n, 1]);
        let mask = Mask::new(Tensor::from_slice(counted).view([n, 1]));
        let groups = Groups::of_size(counted.len(), size);
        let batch =
            Rewarded { rewards: &rewards, mask: &mask, groups: &groups, greedy: None, steps: None };
        host(&estimator.estimate(batch).unwrap())
    }

    const ALL: [AdvantageEstimator; 6] = [
        AdvantageEstimator::GroupMean { scale: AdvantageScale::Group { eps: 0. } },
        AdvantageEstimator::GroupMean { scale: AdvantageScale::Batch { eps: 0. } },
        AdvantageEstimator::LeaveOneOut { scale: AdvantageScale::None },
        AdvantageEstimator::LeaveOneOut { scale: AdvantageScale::Whitened { eps: 0. } },
        AdvantageEstimator::LengthWeighted,
        AdvantageEstimator::WhitenedGroupMean,
    ];

    #[test]
    fn equal_scores_teach_exactly_nothing() {
        for estimator in &ALL[..5] {
            // 0.1 has no exact half, so a mean by division would differ from 0.1.
            let found = estimate(*estimator, &[0.1, 0.1, 0.1, 1., 3., 2.], &[true; 6], 3);
            let whitened = matches!(
                estimator,
                AdvantageEstimator::LeaveOneOut { scale: AdvantageScale::Whitened { .. } }
            );
            assert!(whitened || found[..3] == [0.; 3], "{estimator:?} {found:?}");
            assert!(found[3] < 0. && found[4] > 0., "{estimator:?} {found:?}");
        }
    }

    #[test]
    fn a_response_without_a_score_changes_no_other() {
        for estimator in ALL {
            let scored = [true, false, true, true, true, true, true, true];
            let one = estimate(estimator, &[1., -9., 0., 4., 1., 2., 3., 5.], &scored, 4);
            let two = estimate(estimator, &[1., 99., 0., 4., 1., 2., 3., 5.], &scored, 4);
            assert_eq!(one, two, "{estimator:?}");
            assert_eq!(one[1], 0.);
            assert!(one[0] != 0.);
        }
    }

    #[test]
    fn the_order_of_groups_and_rows_changes_nothing() {
        for estimator in ALL {
            let one = estimate(estimator, &[1., 0., 4., 1., 2., 5.], &[true; 6], 3);
            let two = estimate(estimator, &[5., 2., 1., 4., 0., 1.], &[true; 6], 3);
            for (row, value) in one.iter().enumerate() {
                assert!((value - two[5 - row]).abs() < 1e-12, "{estimator:?}");
            }
        }
    }

    #[test]
    fn returns_pass_over_tokens_that_do_not_count() {
        let rewards = Tensor::from_slice2(&[[1f64, 9., 2., 4.]]);
        let mask = Mask::new(Tensor::from_slice2(&[[true, false, true, true]]));
        let found = host(&returns_to_go(&rewards, &mask, 0.5));
        assert_eq!(found, [1. + 0.5 * 4., 0., 2. + 0.5 * 4., 4.]);
    }

    /// Steps of scores 1 and 0 in one response, and of 0.5, the mean, in two others.
    #[test]
    fn scores_of_steps_reach_all_tokens_before_their_ends() {
        let rewards = Tensor::zeros([4, 4], (Kind::Double, tch::Device::Cpu));
        let real = [[true; 4], [true, true, false, false], [false; 4], [true; 4]];
        let mask = Mask::new(Tensor::from_slice2(&real));
        let groups = Groups::of_size(4, 4);
        // The third response has no score, and its steps count nowhere.
        let steps = [vec![(1, 1.), (3, 0.)], vec![(1, 0.5)], vec![(3, 9.)], vec![(3, 0.5)]];
        let batch = Rewarded {
            rewards: &rewards,
            mask: &mask,
            groups: &groups,
            greedy: None,
            steps: Some(&steps),
        };
        let estimator = AdvantageEstimator::GroupSteps { eps: 0. };
        let found = Vec::<Vec<f64>>::try_from(estimator.estimate(batch).unwrap()).unwrap();
        // Mean 0.5; deviation √(0.5 / 3).
        let one = 0.5 / (0.5f64 / 3.).sqrt();
        let want = [[0., 0., -one, -one], [0.; 4], [0.; 4], [0.; 4]];
        for (found, want) in found.concat().iter().zip(want.concat()) {
            assert!((found - want).abs() < 1e-12, "{found} {want}");
        }
        let none = Rewarded { steps: None, ..batch };
        assert!(matches!(estimator.estimate(none), Err(RlError::NoSteps { row: 0 })));
        let equal = [vec![(1, 1.)], vec![(1, 1.)], vec![], vec![(3, 1.), (3, 1.)]];
        let equal = Rewarded { steps: Some(&equal), ..batch };
        let all = estimator.estimate(equal).unwrap().abs().sum(Kind::Double);
        assert_eq!(all.double_value(&[]), 0.);
    }

    #[test]
    fn a_greedy_baseline_needs_greedy_scores() {
        let rewards = Tensor::from_slice2(&[[2f64], [3.]]);
        let mask = Mask::new(Tensor::from_slice2(&[[true], [true]]));
        let groups = Groups::of_size(2, 1);
        let batch =
            Rewarded { rewards: &rewards, mask: &mask, groups: &groups, greedy: None, steps: None };
        let error = AdvantageEstimator::Greedy.estimate(batch).unwrap_err();
        assert!(matches!(error, RlError::NoGreedy), "{error}");
        let given = Rewarded { greedy: Some(&[Some(0.5), None]), ..batch };
        let found = host(&AdvantageEstimator::Greedy.estimate(given).unwrap());
        assert_eq!(found, [1.5, 0.]);
    }
}
