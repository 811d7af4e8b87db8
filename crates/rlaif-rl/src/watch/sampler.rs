//! Disagreement between the sampler and the training pass.

use super::{Sign, Symptom};
use crate::stats::Stats;

/// Log-probabilities that differ between sampler and training pass.
pub(super) fn gap(stats: &Stats) -> Option<Sign> {
    let gap = stats.get("objective/sampler_gap");
    (gap > 0.1).then(|| Sign {
        symptom: Symptom::SamplerGap,
        seen: format!("sampler and training pass differ by {gap:.3} nats per token"),
        cause: "They do not compute the same model: low precision, or a policy of your own whose \
                cached decoding differs from its forward pass",
        advice: "Load the policy in f32 to tell the two apart; a policy of your own must give the \
                 same logits in `Policy::step` and `Policy::response_hidden`"
            .to_owned(),
    })
}
