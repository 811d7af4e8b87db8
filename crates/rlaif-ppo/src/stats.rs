//! The statistics of an update, under TRL 0.11's names.

use rlaif_core::stats::mean_std;
use rlaif_rl::{Stats, real};
use rlaif_torch::dist::World;

use crate::{
    error::PpoError,
    progress::{UNIT_NUMBERS, UpdateProgress},
};

/// Adds what an update tells, as a rerun would tell it again.
pub(crate) fn of_update(
    stats: &mut Stats,
    progress: &UpdateProgress,
    world: &World,
) -> Result<(), PpoError> {
    for (name, number) in UNIT_NUMBERS {
        let of_units: Vec<f64> = progress.units.iter().map(number).collect();
        stats.push(name, mean_std(&of_units).0);
    }
    let unexplained = stats.get("ppo/val/error") / stats.get("ppo/returns/var");
    stats.push("ppo/val/var_explained", 1. - unexplained);
    stats.push("ppo/learning_rate", progress.learning_rate.unwrap_or(f64::NAN));
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
        let values = world.gather_numbers(values)?;
        stats.distributions.push((name, values));
    }
    let largest = stats.distributions.iter().find(|(name, _)| *name == "ppo/policy/ratio");
    let largest = largest.and_then(|(_, ratios)| ratios.iter().copied().reduce(f64::max));
    stats.push("ppo/policy/ratio_max", largest.unwrap_or(f64::NAN));
    Ok(())
}
