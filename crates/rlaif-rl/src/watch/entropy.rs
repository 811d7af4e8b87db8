//! Symptoms in the policy's entropy.

use super::{Sign, Symptom, Watch};
use crate::stats::Stats;

impl Watch {
    /// An entropy that has fallen to a tenth of the first.
    pub(super) fn entropy_collapse(&mut self, stats: &Stats) -> Option<Sign> {
        let entropy = stats.get("ppo/policy/entropy");
        if entropy.is_nan() {
            return None;
        }
        let first = *self.first_entropy.get_or_insert(entropy);
        (entropy < 0.1 * first).then(|| Sign {
            symptom: Symptom::EntropyCollapse,
            seen: format!("the entropy per token fell from {first:.2} to {entropy:.3} nats"),
            cause: "The policy gives nearly the same response every time, and has stopped \
                    exploring",
            advice: "Go back to an earlier checkpoint; set `entropy_coef` (0.01, say), raise the \
                     KL coefficient (`kl.control`), or lower `optimizer.lr`",
        })
    }
}
