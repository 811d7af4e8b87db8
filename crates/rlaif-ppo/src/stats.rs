//! The statistics of a step, under TRL 0.11's names.

use rlaif_core::{Metrics, stats::mean_std};
use rlaif_lm::{Mask, Policy, generate::FinishReason};
use rlaif_train::Advantages;
use tch::{Device, Kind, Tensor};

use crate::{
    rollout::{Rollout, pick},
    trainer::PpoTrainer,
    update::Progress,
};

/// What a step came to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PpoStats {
    /// The step, from 1: how many updates there have been.
    pub step: u64,
    /// Numbers by name: TRL 0.11's where it has the number; `docs/ppo.md` lists all. What differs
    /// between two runs of the same seed is under `time/`.
    pub metrics: Metrics,
    /// Numbers of each row or token, for histograms, by name.
    pub distributions: Vec<(&'static str, Vec<f64>)>,
}

impl PpoStats {
    /// The number of this name; NaN if there is none.
    ///
    /// ```
    /// let mut stats = rlaif_ppo::PpoStats::default();
    /// stats.metrics.set("objective/kl", 0.5);
    /// assert_eq!(stats.get("objective/kl"), 0.5);
    /// assert!(stats.get("objective/KL").is_nan());
    /// ```
    pub fn get(&self, name: &str) -> f64 {
        self.metrics.get(name).unwrap_or(f64::NAN)
    }

    fn push(&mut self, name: impl Into<std::borrow::Cow<'static, str>>, value: f64) {
        self.metrics.set(name, value);
    }
}

/// The means over tokens that an update keeps for each minibatch, in this order.
pub(crate) const MEANS: [&str; 10] = [
    "ppo/loss/policy",
    "ppo/loss/value",
    "ppo/policy/entropy",
    "ppo/policy/approxkl",
    "ppo/policy/policykl",
    "ppo/policy/clipfrac",
    "ppo/policy/ratio",
    "ppo/val/vpred",
    "ppo/val/error",
    "ppo/val/clipfrac",
];

/// What [`batch_statistics`] gives, in this order.
const BATCH: [&str; 5] = [
    "ppo/policy/advantages_mean",
    "ppo/returns/mean",
    "ppo/returns/var",
    "ppo/val/mean",
    "ppo/val/var",
];

/// Where in [`MEANS`] something is.
pub(crate) const POLICY: usize = 0;
pub(crate) const VALUE: usize = 1;
pub(crate) const POLICY_KL: usize = 4;
pub(crate) const RATIO: usize = 6;

impl Unit {
    /// Adds another's numbers, by its share of the whole.
    pub(crate) fn add(&mut self, other: &Self, share: f64) {
        for (own, other) in self.means.iter_mut().zip(other.means) {
            *own += share * other;
        }
        self.total += share * other.total;
        self.k3 += share * other.k3;
    }
}

/// What is known of one minibatch, or in compatibility mode of one micro-batch.
#[derive(Debug, Default)]
pub(crate) struct Unit {
    /// By [`MEANS`].
    pub(crate) means: [f64; MEANS.len()],
    /// The whole loss that was minimised.
    pub(crate) total: f64,
    /// Mean of the advantages; mean and variance of returns and of old values.
    pub(crate) batch: [f64; 5],
    /// KL from the sampling policy, by k3: never negative.
    pub(crate) k3: f64,
}

/// Mean of advantages, mean and variance of returns, mean and variance of old values, over the
/// tokens of some rows.
pub(crate) fn batch_statistics(
    rollout: &Rollout,
    advantages: &Advantages,
    rows: &[usize],
) -> Tensor {
    let width = rollout.responses.width();
    let mask = Mask::new(pick(rollout.mask.tensor(), rows, width));
    let returns = pick(&advantages.returns, rows, width);
    let values = pick(&rollout.values, rows, width);
    Tensor::stack(
        &[
            mask.mean(&pick(&advantages.advantages, rows, width)),
            mask.mean(&returns),
            mask.variance(&returns),
            mask.mean(&values),
            mask.variance(&values),
        ],
        0,
    )
}

/// A tensor's elements on the host.
pub(crate) fn host(x: &Tensor) -> Vec<f64> {
    let flat = x.to_kind(Kind::Double).to_device(Device::Cpu).reshape([-1]);
    Vec::<f64>::try_from(flat).expect("a vector of f64")
}

/// The elements of `x` where the mask is true, on the host, row by row.
pub(crate) fn real(x: &Tensor, mask: &Mask) -> Vec<f64> {
    let keep = Vec::<bool>::try_from(mask.tensor().to_device(Device::Cpu).reshape([-1]))
        .expect("a vector of bool");
    host(x).into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(x, _)| x).collect()
}

/// Everything that an update tells, as a rerun would tell it again.
pub(crate) fn summarise<P: Policy>(
    trainer: &PpoTrainer<P>,
    rollout: &Rollout,
    progress: &Progress,
) -> PpoStats {
    let mut stats = PpoStats::default();
    let rows: Vec<usize> = (0..rollout.len()).filter(|&row| rollout.counts(row)).collect();
    of_objective(&mut stats, trainer, rollout, &rows);
    of_scores(&mut stats, rollout, &rows);
    of_lengths(&mut stats, rollout, trainer.skipped());
    of_update(&mut stats, progress);
    stats
}

fn of_objective<P: Policy>(
    stats: &mut PpoStats,
    trainer: &PpoTrainer<P>,
    rollout: &Rollout,
    rows: &[usize],
) {
    let by_row = |x: &Tensor| -> Vec<f64> {
        let sums = host(&rollout.mask.row_sums(x));
        rows.iter().map(|&row| sums[row]).collect()
    };
    let kl = by_row(&rollout.kl);
    let surprise = by_row(&-&rollout.log_probs);
    let coef = trainer.controller.coef();
    stats.push("objective/kl", mean_std(&kl).0);
    stats.push("objective/kl_coef", coef);
    stats.push("objective/entropy", mean_std(&surprise).0);
    let penalty = host(&rollout.mask.mean(&(&rollout.kl * -coef)))[0];
    stats.push("ppo/mean_non_score_reward", penalty);
    stats.distributions.push(("objective/kl_dist", kl));
    if let Some(gap) = rollout.sampler_gap {
        stats.push("objective/sampler_gap", gap);
    }
}

fn of_scores(stats: &mut PpoStats, rollout: &Rollout, rows: &[usize]) {
    let shaped: Vec<f64> = rollout.shaped_scores.iter().flatten().copied().collect();
    let (mean, std) = mean_std(&shaped);
    stats.push("ppo/mean_scores", mean);
    stats.push("ppo/std_scores", std);
    let given: Vec<f64> = rollout.scores.iter().flatten().copied().collect();
    let (mean, std) = mean_std(&given);
    stats.push("env/reward_mean", mean);
    stats.push("env/reward_std", std);
    for (name, part) in &rollout.parts {
        let part: Vec<f64> = part.iter().flatten().copied().collect();
        if !part.is_empty() {
            stats.push(format!("env/reward/{name}"), mean_std(&part).0);
        }
    }
    let missing = rollout.len() - rows.len();
    if missing > 0 {
        stats.push("env/dropped", missing as f64);
    }
    stats.distributions.push(("env/reward_dist", given));
}

fn of_lengths(stats: &mut PpoStats, rollout: &Rollout, start_tokens: usize) {
    let lengths = |rows: &[Vec<u32>], more: usize| -> Vec<f64> {
        rows.iter().map(|row| (row.len() + more) as f64).collect()
    };
    let queries = lengths(rollout.prompts.rows(), 0);
    let responses = lengths(rollout.responses.rows(), start_tokens);
    for (name, values) in [("queries", &queries), ("responses", &responses)] {
        let (mean, std) = mean_std(values);
        stats.push(format!("tokens/{name}_len_mean"), mean);
        stats.push(format!("tokens/{name}_len_std"), std);
    }
    stats.distributions.push(("tokens/queries_dist", queries));
    stats.distributions.push(("tokens/responses_dist", responses));
    if !rollout.finish.is_empty() {
        let ended = rollout.finish.iter().filter(|f| **f != FinishReason::Length).count();
        stats.push("tokens/responses_ended", ended as f64 / rollout.len() as f64);
    }
}

fn of_update(stats: &mut PpoStats, progress: &Progress) {
    let over_units =
        |of: &dyn Fn(&Unit) -> f64| mean_std(&progress.units.iter().map(of).collect::<Vec<_>>()).0;
    for (at, name) in MEANS.iter().enumerate() {
        stats.push(*name, over_units(&|unit| unit.means[at]));
    }
    stats.push("ppo/loss/total", over_units(&|unit| unit.total));
    for (at, name) in BATCH.iter().enumerate() {
        stats.push(*name, over_units(&|unit| unit.batch[at]));
    }
    let unexplained = stats.get("ppo/val/error") / stats.get("ppo/returns/var");
    stats.push("ppo/val/var_explained", 1. - unexplained);
    stats.push("ppo/learning_rate", progress.learning_rate);
    stats.push("ppo/grad_norm", mean_std(&progress.grad_norms).0);
    stats.push("ppo/updates", progress.grad_norms.len() as f64);
    stats.push("ppo/updates_skipped", progress.skipped as f64);
    stats.push("ppo/updates_not_finite", progress.not_finite as f64);
    stats.push("ppo/stopped_early", f64::from(u8::from(progress.stopped_early)));
    if !progress.pretraining.is_empty() {
        stats.push("ppo/loss/pretraining", mean_std(&progress.pretraining).0);
    }
    for (at, name) in ["ppo/policy/ratio", "ppo/policy/advantages"].into_iter().enumerate() {
        let tokens = progress.tokens.iter().zip(&progress.masks);
        let values = tokens.flat_map(|(tensors, mask)| real(&tensors[at], mask)).collect();
        stats.distributions.push((name, values));
    }
    let largest = stats.distributions.iter().find(|(name, _)| *name == "ppo/policy/ratio");
    let largest = largest.map_or(f64::NAN, |(_, ratios)| ratios.iter().copied().fold(0., f64::max));
    stats.push("ppo/policy/ratio_max", largest);
}

/// Seconds, rates and memory.
pub(crate) fn measure(stats: &mut PpoStats, rollout: &Rollout, seconds: &[(&'static str, f64)]) {
    let mut total = 0.;
    for (phase, s) in rollout.seconds.iter().chain(seconds) {
        stats.push(format!("time/ppo/{phase}"), *s);
        total += s;
    }
    stats.push("time/ppo/total", total);
    let tokens: usize = rollout.responses.rows().iter().map(Vec::len).sum();
    stats.push("time/samples_per_second", rollout.len() as f64 / total);
    stats.push("time/tokens_per_second", tokens as f64 / total);
    if let Some(peak) = peak_bytes(rollout.log_probs.device()) {
        stats.push("time/peak_memory_bytes", peak as f64);
    }
}

/// The most memory that this process has held so far, where its models are.
pub(crate) fn peak_bytes(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(index) => rlaif_torch::cuda_memory(index).ok().map(|m| m.allocated_peak),
        _ => rlaif_torch::host_memory().resident_peak,
    }
}
