//! All of TRL 0.11.4's numbers where they differ from the correct ones, see
//! [`Compatibility::Trl011`]. No other file contains them.

use std::ops::Range;

use rlaif_core::stats::mean_std;
use rlaif_lm::{LmSpec, Played, Sampled, Whiten};
use rlaif_rl::{Rollout, Stats, passes, score_tensor, token_rewards};
use rlaif_torch::dist::World;
use rlaif_train::{Optimizer, OptimizerConfig};
use tch::Tensor;

use crate::{
    config::{Compatibility, PpoConfig, setting},
    error::PpoError,
    progress::{BatchNumbers, Means, Pass, Unit, UpdateProgress},
};

impl PpoConfig {
    /// TRL 0.11.4's settings and numbers, defects included; see [`Compatibility::Trl011`].
    pub fn trl() -> Self {
        Self {
            minibatch_size: 128,
            optimizer: OptimizerConfig { lr: 1.41e-5, max_grad_norm: 0., ..Default::default() },
            compatibility: Compatibility::Trl011,
            ..Self::default()
        }
    }
}

impl Compatibility {
    /// Refuses TRL's formulas in several processes: its numbers depend on the division into passes.
    pub(crate) fn check_processes(self, world: &World) -> Result<(), PpoError> {
        match self {
            Self::Trl011 if !world.is_alone() => {
                let expected = "none, with several processes: TRL's numbers depend on the division into passes";
                Err(setting("compatibility", "trl-0.11", expected))
            }
            Self::None | Self::Trl011 => Ok(()),
        }
    }
}

/// Accounting of tokens, losses and steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accounting {
    /// Every token of a minibatch has the same weight, and an update stops after the minibatch that
    /// goes too far.
    Tokens,
    /// As in TRL 0.11.4.
    Trl011,
}

impl From<Compatibility> for Accounting {
    fn from(compatibility: Compatibility) -> Self {
        match compatibility {
            Compatibility::None => Self::Tokens,
            Compatibility::Trl011 => Self::Trl011,
        }
    }
}

impl Accounting {
    /// `true` if the first token of a response does not count. TRL mistakes the first token of an
    /// encoder-decoder model's response for the decoder's start token.
    fn skips_first(self, spec: &LmSpec) -> bool {
        self == Self::Trl011 && spec.decoder_start_id.is_some()
    }

    /// Marks the first token of each response as one that the policy did not choose, if it does not count.
    pub(crate) fn mark_start(self, sampled: &mut [Sampled], spec: &LmSpec) {
        if self.skips_first(spec) {
            for response in sampled {
                let first = Played { given: vec![Range { start: 0, end: 1 }], ..Played::default() };
                response.played = Some(Box::new(first));
            }
        }
    }

    /// Removes the statistics of episodes that the marks of [`Self::mark_start`] leave: an encoder-decoder model
    /// plays none.
    pub(crate) fn unmark_episodes(self, rollout: &mut Rollout, spec: &LmSpec) {
        if self.skips_first(spec) {
            rollout.episodes = None;
        }
    }

    /// Adds the decoder's start token, which TRL skips, to the lengths of responses, as TRL does.
    pub(crate) fn count_start(self, stats: &mut Stats, spec: &LmSpec) {
        const LENGTHS: &str = "tokens/responses_dist";
        if !self.skips_first(spec) {
            return;
        }
        let found = stats.distributions.iter_mut().find(|(name, _)| *name == LENGTHS);
        if let Some((_, lengths)) = found {
            lengths.iter_mut().for_each(|length| *length += 1.);
            let (mean, _) = mean_std(lengths);
            stats.push("tokens/responses_len_mean", mean);
        }
    }

    /// The passes over one minibatch. In TRL, the rows in order.
    pub(crate) fn passes(
        self,
        minibatch: &[usize],
        length: impl Fn(usize) -> usize,
        size: usize,
    ) -> Vec<Vec<usize>> {
        match self {
            Self::Tokens => passes(minibatch, length, size),
            Self::Trl011 => minibatch.chunks(size).map(<[usize]>::to_vec).collect(),
        }
    }

    /// Weight of the loss of a pass with `of_pass` of the minibatch's tokens. In TRL, each pass has
    /// its own mean; otherwise every token has the same weight.
    pub(crate) fn share(self, of_pass: f64, of_minibatch: f64, passes: usize) -> f64 {
        match self {
            Self::Tokens => of_pass / of_minibatch,
            Self::Trl011 => 1. / passes as f64,
        }
    }

    /// The statistics of a minibatch: all passes combined, each weighted by its share; or, as in
    /// TRL, each pass separately. `batch` computes the numbers of some rows.
    pub(crate) fn units(
        self,
        minibatch: &[usize],
        passes: &[Pass<'_>],
        batch: impl Fn(&[usize]) -> BatchNumbers,
    ) -> Vec<Unit> {
        match self {
            Self::Tokens => {
                let mut means = Means::default();
                for pass in passes {
                    means.add(&pass.means, pass.share);
                }
                vec![Unit { means, batch: batch(minibatch) }]
            }
            Self::Trl011 => passes
                .iter()
                .map(|pass| Unit { means: pass.means, batch: batch(pass.rows) })
                .collect(),
        }
    }

    /// `true` if, after a minibatch, the policy is too far from the sampling policy to continue.
    /// TRL checks after each epoch, see [`Self::is_far_after_epoch`].
    pub(crate) fn is_far(self, unit: &Unit, target_kl: Option<f64>) -> bool {
        self == Self::Tokens && target_kl.is_some_and(|target| unit.means.k3 > 1.5 * target)
    }

    /// TRL's early stopping: checks the KL of the epoch's last microbatch, not the mean over all.
    pub(crate) fn is_far_after_epoch(self, units: &[Unit], target_kl: Option<f64>) -> bool {
        match (self, target_kl, units.last()) {
            (Self::Trl011, Some(target), Some(unit)) => unit.means.policy_kl > 1.5 * target,
            _ => false,
        }
    }

    /// Skips a minibatch because of its ratio. TRL multiplies the loss by 0, and its optimizer
    /// still steps: Adam's momentum moves the weights.
    pub(crate) fn leave_out(
        self,
        optimizer: &mut Optimizer,
        progress: &mut UpdateProgress,
    ) -> Result<(), PpoError> {
        progress.skipped += 1;
        if self == Self::Trl011 {
            if let Some(unit) = progress.units.last_mut() {
                let means = &mut unit.means;
                (means.policy_loss, means.value_loss, means.total) = (0., 0., 0.);
            }
            for (_, tensor) in optimizer.parameters() {
                let mut grad = tensor.grad();
                if grad.defined() {
                    let _ = grad.zero_();
                }
            }
            progress.learning_rate = Some(optimizer.step()?.lr);
        }
        Ok(())
    }

    /// Rewards scaled to variance 1 over the unmasked tokens.
    ///
    /// TRL whitens padding too, so that every padded position has the reward `c = μ − μ / √(σ² +
    /// 1e-8)`. With n padded positions after a response, generalized advantage estimation adds `γλ
    /// c (1 + γλ + … + (γλ)ⁿ⁻¹)` to its last token.
    pub(crate) fn whiten_rewards(
        self,
        rewards: &Tensor,
        rollout: &Rollout,
        spec: &LmSpec,
        decay: f64,
    ) -> Tensor {
        let mask = &rollout.mask;
        let whitened = mask.whiten(rewards, Whiten::KeepMean);
        if self == Self::Tokens {
            return whitened;
        }
        let mean = mask.mean(rewards);
        let c = &mean - &mean * (mask.variance(rewards) + 1e-8).rsqrt();
        let with_query = spec.decoder_start_id.is_none();
        let lengths: Vec<usize> = rollout
            .prompts
            .rows()
            .iter()
            .zip(rollout.responses.rows())
            .map(|(x, y)| if with_query { x.len() + y.len() } else { y.len() })
            .collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let sums: Vec<Option<f64>> = lengths
            .iter()
            .map(|length| Some((1..=longest - length).fold(0., |sum, _| decay * (sum + 1.))))
            .collect();
        let sums = score_tensor(&sums, rewards.device());
        whitened + token_rewards(&(sums * c), &rewards.zeros_like(), 0., mask)
    }
}
