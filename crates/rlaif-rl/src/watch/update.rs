//! Symptoms in the size of a policy update.

use super::{
    Sign, Symptom,
    keys::{AdviceKeys, listed},
};
use crate::stats::Stats;

/// Optimizer steps that were skipped because of NaN or infinity.
fn not_finite_steps(stats: &Stats) -> f64 {
    stats.metrics.get("ppo/updates_not_finite").unwrap_or(0.)
}

/// Gradients with NaN or infinity.
pub(super) fn not_finite(stats: &Stats, keys: AdviceKeys) -> Option<Sign> {
    let steps = not_finite_steps(stats);
    let weights = [keys.value_coef, keys.kl_coef].into_iter().flatten();
    let weights: String = weights.map(|key| format!("`{key}`, ")).collect();
    let clip = keys.score_clip.map_or(String::new(), |key| format!(" (`{key}`)"));
    (steps > 0.).then(|| Sign {
        symptom: Symptom::NotFinite,
        seen: format!("the gradients of {steps:.0} optimizer steps hold NaN or infinity"),
        cause: "Something overflows: the policy has diverged, a loss has a weight out of all \
                proportion, or the kind of the weights is too narrow",
        advice: format!(
            "Lower `optimizer.lr`; look at {weights}the size of the scores{clip}; load the policy in \
             f32 to tell the last apart"
        ),
    })
}

/// An update that moves the policy too far from the one that sampled.
pub(super) fn large_ratio(stats: &Stats, keys: AdviceKeys) -> Option<Sign> {
    // NaN without an update.
    let (ratio, clipped) = (stats.get("ppo/policy/ratio"), stats.get("ppo/policy/clipfrac"));
    let skipped = stats.get("ppo/updates_skipped") - not_finite_steps(stats);
    let ways = [
        Some("lower `optimizer.lr` or `epochs`".to_owned()),
        Some("raise `minibatch_size`".to_owned()),
        keys.update_limit.map(|key| format!("set `{key}` to end an update in time")),
    ];
    (ratio > 2. || clipped > 0.5 || skipped > 0.).then(|| Sign {
        symptom: Symptom::LargeRatio,
        seen: format!(
            "the mean ratio is {ratio:.2}, {:.0} % of tokens are clipped, {skipped:.0} optimizer \
             steps were left out",
            100. * clipped
        ),
        cause: "An update moves the policy too far from the one that sampled",
        advice: format!("To move it less, {}", listed(ways)),
    })
}
