//! Symptoms in the scores.

use super::{
    PERSISTENT, Sign, Symptom, Watch,
    keys::{AdviceKeys, listed},
};
use crate::stats::Stats;

impl Watch {
    /// Scores that are all equal, and scores that have converged at a ceiling.
    pub(super) fn scores(&mut self, stats: &Stats, keys: AdviceKeys) -> [Option<Sign>; 2] {
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
        [self.equal_scores(equal, keys), self.saturated_scores(narrow, [mean, spread, first], keys)]
    }

    fn equal_scores(&mut self, equal: bool, keys: AdviceKeys) -> Option<Sign> {
        self.equal = if equal { self.equal + 1 } else { 0 };
        (self.equal >= PERSISTENT).then(|| Sign {
            symptom: Symptom::EqualScores,
            seen: format!("every response of {} steps in a row scored the same", self.equal),
            cause: "The reward does not tell responses apart: a step teaches nothing, or the noise \
                    of a value function",
            advice: format!(
                "Look at samples.jsonl: if responses differ, the reward reads the wrong text or \
                 label{}; if they do not, raise the temperature (`generation.sampling`)",
                keys.score_clip
                    .map_or(String::new(), |key| format!(", or clips everything (`{key}`)"))
            ),
        })
    }

    fn saturated_scores(
        &mut self,
        narrow: bool,
        [mean, spread, first]: [f64; 3],
        keys: AdviceKeys,
    ) -> Option<Sign> {
        let ways = [
            Some(match keys.stop {
                Some(key) => format!("end here (`{key}`)"),
                None => "end here".to_owned(),
            }),
            Some("compare with a second judge".to_owned()),
            Some("use logits in place of probabilities as the reward".to_owned()),
        ];
        self.narrow = if narrow { self.narrow + 1 } else { 0 };
        (self.narrow >= PERSISTENT).then(|| Sign {
            symptom: Symptom::SaturatedScores,
            seen: format!(
                "scores spread by {spread:.4} where they began with {first:.4}, at a mean of \
                 {mean:.3}"
            ),
            cause: "The reward is at its ceiling: what it can tell apart has been learned, and the \
                    rest is noise or exploitation",
            advice: format!("With this reward, little is left to learn: {}", listed(ways)),
        })
    }
}
