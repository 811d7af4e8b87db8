//! The reward of this project.

use std::error::Error;

use rlaif::core::{Exchange, RewardError, RewardModel, Scores};
use serde::Deserialize;

/// The settings in a run file: `settings = { words = 12 }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The desired length of a response, in words.
    words: usize,
}

/// A reward for responses of a given length: each word more or less costs 0.1.
#[derive(Debug)]
pub(crate) struct Brevity {
    words: usize,
}

impl Brevity {
    /// A reward with these settings. An error ends the command with its text.
    pub(crate) fn new(Settings { words }: Settings) -> Result<Self, Box<dyn Error + Send + Sync>> {
        if words == 0 {
            return Err("`words` is 0; expected at least 1".into());
        }
        Ok(Self { words })
    }
}

impl RewardModel for Brevity {
    fn name(&self) -> &str {
        "brevity"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let score = |exchange: &Exchange<'_>| {
            let words = exchange.response.split_whitespace().count();
            -0.1 * words.abs_diff(self.words) as f32
        };
        Scores::from_values(self.name(), &batch.iter().map(score).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_desired_length_has_the_highest_score() {
        let reward = Brevity::new(Settings { words: 3 }).unwrap();
        let responses = ["Too short.", "That is right.", "That is one word more."];
        let batch = responses.map(|response| Exchange::new("Why?", response));
        let scores = reward.score(&batch).unwrap();
        let scores: Vec<f32> = scores.total.iter().flatten().map(|score| score.get()).collect();
        assert_eq!(scores, [-0.1, 0., -0.2]);
    }

    #[test]
    fn a_length_of_0_is_refused() {
        assert!(Brevity::new(Settings { words: 0 }).is_err());
    }
}
