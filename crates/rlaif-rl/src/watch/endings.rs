//! Symptoms in the way responses end.

use rlaif_lm::generate::{Eos, GenerationConfig};

use super::{
    PERSISTENT, Sign, Symptom, Watch,
    keys::{AdviceKeys, listed},
};
use crate::stats::Stats;

impl Watch {
    /// No response ends before the length limit.
    pub(super) fn never_ends(
        &mut self,
        stats: &Stats,
        how: &GenerationConfig,
        keys: AdviceKeys,
    ) -> Option<Sign> {
        let endless = stats.get("tokens/responses_ended") == 0. && how.eos == Eos::Ends;
        self.endless = if endless { self.endless + 1 } else { 0 };
        let ways = [
            Some("raise `generation.max_new_tokens`".to_owned()),
            keys.missing_eos_penalty.map(|key| format!("set `{key}`")),
            Some("name the ids that end a response in `generation.stop_ids`".to_owned()),
        ];
        (self.endless >= PERSISTENT).then(|| Sign {
            symptom: Symptom::NeverEnds,
            seen: format!(
                "no response of {} steps in a row ended within {} tokens",
                self.endless, how.max_new_tokens
            ),
            cause: "The policy never gives EOS: it was not trained to, it was trained on texts \
                    without one, or the limit is too short for it",
            advice: format!("To let responses end, {}", listed(ways)),
        })
    }
}
