//! The statistics of a step, under TRL 0.11's names.

use rlaif_core::{Metrics, stats::mean_std};
use rlaif_lm::{Mask, generate::FinishReason};
use tch::{Device, Tensor};

use crate::{batch::host, rollout::Rollout};

/// Statistics of a step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stats {
    /// The step, from 1: the number of updates.
    pub step: u64,
    /// Numbers by name, with TRL 0.11's names where it has them; `docs/ppo.md` lists all. Numbers
    /// that differ between two runs with the same seed are under `time/`.
    pub metrics: Metrics,
    /// Numbers of each row or token, by name, for histograms.
    pub distributions: Vec<(&'static str, Vec<f64>)>,
}

impl Stats {
    /// The number with this name; NaN if there is none.
    ///
    /// ```
    /// let mut stats = rlaif_rl::Stats::default();
    /// stats.metrics.set("objective/kl", 0.5);
    /// assert_eq!(stats.get("objective/kl"), 0.5);
    /// assert!(stats.get("objective/KL").is_nan());
    /// ```
    pub fn get(&self, name: &str) -> f64 {
        self.metrics.get(name).unwrap_or(f64::NAN)
    }

    /// Sets the number with this name.
    pub fn push(&mut self, name: impl Into<std::borrow::Cow<'static, str>>, value: f64) {
        self.metrics.set(name, value);
    }
}

/// The elements of `x` where the mask is true, on the host, row by row.
pub fn real(x: &Tensor, mask: &Mask) -> Vec<f64> {
    let keep = Vec::<bool>::try_from(mask.tensor().to_device(Device::Cpu).reshape([-1]))
        .expect("a vector of bool");
    host(x).into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(x, _)| x).collect()
}

/// The statistics of a rollout: KL (with its coefficient β), scores and lengths.
pub fn rollout_statistics(rollout: &Rollout, kl_coef: f64) -> Stats {
    let mut stats = Stats::default();
    let rows: Vec<usize> = (0..rollout.len()).filter(|&row| rollout.counts(row)).collect();
    of_objective(&mut stats, rollout, &rows, kl_coef);
    of_scores(&mut stats, rollout, &rows);
    of_lengths(&mut stats, rollout);
    of_episodes(&mut stats, rollout);
    stats
}

fn of_episodes(stats: &mut Stats, rollout: &Rollout) {
    let Some(episodes) = &rollout.episodes else { return };
    stats.push("episodes/turns", mean_std(&episodes.turns).0);
    let own: Vec<f64> = (0..rollout.len())
        .filter(|&row| rollout.counts(row))
        .map(|row| rollout.tokens(row) as f64)
        .collect();
    stats.push("episodes/own_tokens", mean_std(&own).0);
    for (event, count) in &episodes.counts {
        stats.push(format!("episodes/{event}"), f64::from(*count));
    }
}

fn of_objective(stats: &mut Stats, rollout: &Rollout, rows: &[usize], coef: f64) {
    let by_row = |x: &Tensor| -> Vec<f64> {
        let sums = host(&rollout.mask.row_sums(x));
        rows.iter().map(|&row| sums[row]).collect()
    };
    let kl = by_row(&rollout.kl);
    let surprise = by_row(&-&rollout.log_probs);
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

fn of_scores(stats: &mut Stats, rollout: &Rollout, rows: &[usize]) {
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

fn of_lengths(stats: &mut Stats, rollout: &Rollout) {
    let lengths =
        |rows: &[Vec<u32>]| -> Vec<f64> { rows.iter().map(|row| row.len() as f64).collect() };
    let queries = lengths(rollout.prompts.rows());
    let responses = lengths(rollout.responses.rows());
    for (name, values) in [("queries", &queries), ("responses", &responses)] {
        let (mean, std) = mean_std(values);
        stats.push(format!("tokens/{name}_len_mean"), mean);
        stats.push(format!("tokens/{name}_len_std"), std);
    }
    stats.distributions.push(("tokens/queries_dist", queries));
    stats.distributions.push(("tokens/responses_dist", responses));
    let ended = rollout.finish.iter().filter(|f| **f != FinishReason::Length).count();
    stats.push("tokens/responses_ended", ended as f64 / rollout.len() as f64);
}

impl Stats {
    /// Adds the seconds of the rollout's phases and of those after it, rates, and peak memory.
    pub fn measure(&mut self, rollout: &Rollout, seconds: &[(&'static str, f64)]) {
        let mut total = 0.;
        for (phase, s) in rollout.seconds.iter().chain(seconds) {
            self.push(format!("time/ppo/{phase}"), *s);
            total += s;
        }
        self.push("time/ppo/total", total);
        let tokens: usize = rollout.responses.rows().iter().map(Vec::len).sum();
        self.push("time/samples_per_second", rollout.len() as f64 / total);
        self.push("time/tokens_per_second", tokens as f64 / total);
        if let Some(peak) = peak_bytes(rollout.log_probs.device()) {
            self.push("time/peak_memory_bytes", peak as f64);
        }
    }
}

/// The peak memory of this process, on the device of its models.
pub fn peak_bytes(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(index) => rlaif_torch::cuda_memory(index).ok().map(|m| m.allocated_peak),
        _ => rlaif_torch::host_memory().resident_peak,
    }
}
