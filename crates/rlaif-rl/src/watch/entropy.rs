//! Symptoms in the policy's entropy.

use super::{
    Sign, Symptom, Watch,
    keys::{AdviceKeys, listed},
};
use crate::stats::Stats;

impl Watch {
    /// The entropy has fallen to a tenth of its first value.
    pub(super) fn entropy_collapse(&mut self, stats: &Stats, keys: AdviceKeys) -> Option<Sign> {
        let entropy = stats.get("ppo/policy/entropy");
        if entropy.is_nan() {
            return None;
        }
        let first = *self.first_entropy.get_or_insert(entropy);
        let ways = [
            keys.entropy_coef.map(|key| format!("set `{key}` (0.01, say)")),
            keys.kl_coef.map(|key| format!("raise the KL coefficient (`{key}`)")),
            Some("lower `optimizer.lr`".to_owned()),
        ];
        (entropy < 0.1 * first).then(|| Sign {
            symptom: Symptom::EntropyCollapse,
            seen: format!("the entropy per token fell from {first:.2} to {entropy:.3} nats"),
            cause: "The policy gives nearly the same response every time, and has stopped \
                    exploring",
            advice: format!("Go back to an earlier checkpoint; {}", listed(ways)),
        })
    }
}
