//! Symptoms in the scores.

use super::{PERSISTENT, Sign, Symptom, Watch};
use crate::stats::Stats;

impl Watch {
    /// Scores that are all equal, and scores that have converged at a ceiling.
    pub(super) fn scores(&mut self, stats: &Stats) -> [Option<Sign>; 2] {
        let (mean, spread) = (stats.get("env/reward_mean"), stats.get("env/reward_std"));
        if mean.is_nan() {
            return [None, None];
        }
        // The rounding error of equal scores in f32.
        let rounding = 1e-6 * (1. + mean.abs());
        let first = *self.first_spread.get_or_insert(spread);
        let best = *self.best_score.insert(self.best_score.map_or(mean, |best| best.max(mean)));
        // Formerly spread out, now equal at the top: there is a ceiling, possibly a hard one.
        let narrow =
            first > rounding && spread < 0.05 * first && mean >= best - (2. * spread).max(rounding);
        let equal = spread <= rounding && !narrow;
        [self.equal_scores(equal), self.saturated_scores(narrow, [mean, spread, first])]
    }

    fn equal_scores(&mut self, equal: bool) -> Option<Sign> {
        self.equal = if equal { self.equal + 1 } else { 0 };
        (self.equal >= PERSISTENT).then(|| Sign {
            symptom: Symptom::EqualScores,
            seen: format!("every response of {} steps in a row scored the same", self.equal),
            cause: "The reward does not tell responses apart: advantages are 0, or the noise of a \
                    value function",
            advice:
                "Look at samples.jsonl: if responses differ, the reward reads the wrong text or \
                     label, or clips everything (`scores.clip`); if they do not, raise the \
                     temperature (`generation.sampling`)"
                    .to_owned(),
        })
    }

    fn saturated_scores(&mut self, narrow: bool, [mean, spread, first]: [f64; 3]) -> Option<Sign> {
        self.narrow = if narrow { self.narrow + 1 } else { 0 };
        (self.narrow >= PERSISTENT).then(|| Sign {
            symptom: Symptom::SaturatedScores,
            seen: format!(
                "scores spread by {spread:.4} where they began with {first:.4}, at a mean of \
                 {mean:.3}"
            ),
            cause: "The reward is at its ceiling: what it can tell apart has been learnt, and the \
                    rest is noise or exploitation",
            advice:
                "End here (`stop.metric`), compare with a second judge, or use logits in place \
                     of probabilities as the reward"
                    .to_owned(),
        })
    }
}
