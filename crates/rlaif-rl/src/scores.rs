//! From the output of a reward model to the score used for training.

use rlaif_core::{RewardError, Scores, stats::RunningMoments};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::RlError;

/// Transformations of scores before they become rewards, in this order: the penalty for a missing
/// EOS, scaling, clipping.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreConfig {
    /// Treatment of a response that has no score.
    pub missing: MissingScore,
    /// Amount subtracted from the score of a response that ends without EOS.
    pub missing_eos_penalty: f64,
    /// Division of scores by their running standard deviation.
    pub scaling: ScoreScaling,
    /// Clips every score to ±this, after scaling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
}

/// Treatment of a response to which the reward model gave no score.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingScore {
    /// The step fails with an error that gives the reason.
    #[default]
    Error,
    /// The response is dropped from rewards, advantages and losses.
    Drop,
    /// The response gets this score.
    Value(f64),
}

/// Division of scores by their running standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScoreScaling {
    /// The scores are unchanged.
    #[default]
    None,
    /// `s / (σ + ε)`: TRL 0.11's `use_score_scaling`.
    Scale,
    /// `(s − μ) / (σ + ε)`: TRL 0.11's `use_score_norm` in addition.
    Normalize,
}

impl ScoreConfig {
    /// One score per response, `None` for a dropped response; `ended` marks the responses that end
    /// with EOS.
    ///
    /// # Errors
    /// [`RlError::Reward`] if the numbers of scores and responses differ; [`RlError::NoScore`] for
    /// a missing score, if the settings make that an error.
    pub fn resolve(
        &self,
        reward: &str,
        scores: &Scores,
        ended: &[bool],
    ) -> Result<Vec<Option<f64>>, RlError> {
        let rows = ended.len();
        if scores.total.len() != rows {
            return Err(RlError::Reward(RewardError::Count {
                model: reward.to_owned(),
                column: "total".to_owned(),
                expected: rows,
                found: scores.total.len(),
            }));
        }
        scores
            .total
            .iter()
            .enumerate()
            .map(|(row, score)| {
                let score = match (score, self.missing) {
                    (Some(score), _) => Some(f64::from(score.get())),
                    (None, MissingScore::Value(value)) => Some(value),
                    (None, MissingScore::Drop) => None,
                    (None, MissingScore::Error) => {
                        let reason = scores.reasons.iter().find(|(at, _)| *at == row);
                        return Err(RlError::NoScore {
                            reward: reward.to_owned(),
                            row,
                            named: None,
                            reason: reason.map_or_else(
                                || "the reward model does not say why".to_owned(),
                                |(_, reason)| reason.clone(),
                            ),
                        });
                    }
                };
                let penalty = if ended[row] { 0. } else { self.missing_eos_penalty };
                Ok(score.map(|score| score - penalty))
            })
            .collect()
    }

    /// Updates the moments, then scales and clips the scores.
    pub fn shape(&self, scores: &mut [Option<f64>], moments: &mut RunningMoments) {
        if self.scaling != ScoreScaling::None {
            moments.update(&scores.iter().flatten().copied().collect::<Vec<_>>());
        }
        // f32's ε, as in TRL.
        let spread = moments.std() + f64::from(f32::EPSILON);
        for score in scores.iter_mut().flatten() {
            *score = match self.scaling {
                ScoreScaling::None => *score,
                ScoreScaling::Scale => *score / spread,
                ScoreScaling::Normalize => (*score - moments.mean) / spread,
            };
            if let Some(clip) = self.clip {
                *score = score.clamp(-clip, clip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rlaif_core::Score;

    use super::*;

    fn scores(values: &[Option<f32>]) -> Scores {
        Scores::new(values.iter().map(|v| v.map(|v| Score::new(v).unwrap())).collect())
    }

    #[test]
    fn a_missing_score_is_what_the_setting_says() {
        let mut given = scores(&[Some(1.), None]);
        given.reasons.push((1, "no number in the answer".into()));
        let resolve = |missing| {
            let config = ScoreConfig { missing, missing_eos_penalty: 0.5, ..Default::default() };
            config.resolve("judge", &given, &[false, true])
        };
        assert_eq!(resolve(MissingScore::Drop).unwrap(), [Some(0.5), None]);
        assert_eq!(resolve(MissingScore::Value(-2.)).unwrap(), [Some(0.5), Some(-2.)]);
        let error = resolve(MissingScore::Error).unwrap_err().to_string();
        assert!(error.contains("judge") && error.contains("no number in the answer"), "{error}");
    }

    #[test]
    fn too_few_scores_are_an_error() {
        let error = ScoreConfig::default().resolve("r", &scores(&[Some(1.)]), &[true, true]);
        assert!(matches!(error, Err(RlError::Reward(RewardError::Count { .. }))));
    }

    #[test]
    fn scaling_and_clipping_act_in_this_order() {
        let config =
            ScoreConfig { scaling: ScoreScaling::Normalize, clip: Some(0.8), ..Default::default() };
        let mut moments = RunningMoments::default();
        let mut given = [Some(1.), None, Some(3.), Some(2.)];
        config.shape(&mut given, &mut moments);
        assert_eq!(moments.count, 3.);
        assert_eq!(given[1], None);
        assert!((given[0].unwrap() + 0.8).abs() < 1e-9 && (given[2].unwrap() - 0.8).abs() < 1e-9);
        assert!(given[3].unwrap().abs() < 1e-9);
    }
}
