//! The distance from the reference.

use rlaif_train::KlControl;

use super::{
    Sign, Symptom,
    keys::{AdviceKeys, listed},
};
use crate::stats::Stats;

/// A negative KL, which is impossible for a divergence.
pub(super) fn negative(stats: &Stats, keys: AdviceKeys) -> Option<Sign> {
    let kl = stats.get("objective/kl");
    let estimator = match keys.kl_estimator {
        Some(key) => format!("use the estimator k3 (`{key}`), which is never negative, and "),
        None => String::new(),
    };
    (kl < -1.).then(|| Sign {
        symptom: Symptom::NegativeKl,
        seen: format!("`objective/kl` is {kl:.2}"),
        cause: "Responses are not sampled from the distribution whose log-probabilities are \
                trained, or the policy has learned to give what it samples less probability than \
                the reference does",
        advice: format!(
            "Leave `generation.min_new_tokens` at 0 and let EOS end responses; if it stays, \
             {estimator}take a lower `optimizer.lr`"
        ),
    })
}

/// A KL far beyond its target.
pub(super) fn runaway(stats: &Stats, control: KlControl, keys: AdviceKeys) -> Option<Sign> {
    let kl = stats.get("objective/kl");
    let limit = match control {
        KlControl::Adaptive { target, .. } => 10. * target,
        KlControl::Fixed { .. } => 100.,
    };
    let ways = [
        keys.kl_coef.map(|key| format!("raise the coefficient (`{key}`)")),
        Some("lower `optimizer.lr`".to_owned()),
    ];
    (kl > limit).then(|| Sign {
        symptom: Symptom::RunawayKl,
        seen: format!("`objective/kl` is {kl:.1} nats per response"),
        cause: "The policy runs away from the reference faster than the penalty holds it; high \
                scores at this distance are usually exploits of the reward",
        advice: format!(
            "To slow it down, {}; `stop.max_kl` ends a run that goes too far",
            listed(ways)
        ),
    })
}
