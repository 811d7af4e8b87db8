//! Online DPO: the policy gives two responses, a reward model selects one, the update follows.

use rlaif_core::{BadSetting, Metrics, RewardModel, Scores, stats::mean_std};
use rlaif_lm::{
    Draw, LmError, LmSpec, Policy, Sampled, Sampler, SamplerCall, Weights,
    generate::{GenerationConfig, RolloutConcern, Sampling, end_concerns},
};
use rlaif_rl::{Prompt, RlError, sample, sample_row, score, unscored};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{error::DpoError, rows::TokenPair, trainer::DpoTrainer};

/// Making of pairs from the policy's own responses (Guo et al. 2024, online AI feedback,
/// [arXiv:2402.04792](https://arxiv.org/abs/2402.04792)).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OnlineConfig {
    /// The sampling settings.
    pub generation: GenerationConfig,
    /// Amount subtracted from the score of a response that ends without EOS.
    pub missing_eos_penalty: f64,
    /// Minimum difference of scores: pairs with a smaller or equal one are left out.
    pub least_difference: f64,
}

impl OnlineConfig {
    /// Checks the settings that can be checked without a model.
    ///
    /// # Errors
    /// [`DpoError::Setting`] names the first field that is out of range.
    pub fn check(&self) -> Result<(), DpoError> {
        self.generation.check_settings().map_err(|error| error.within("generation"))?;
        if self.generation.sampling == Sampling::Greedy {
            let expected = "the method `sample`: two greedy responses to a prompt are equal, and \
                            make no pair";
            return Err(BadSetting::new("generation.sampling", "greedy", expected).into());
        }
        for (field, value) in [
            ("missing_eos_penalty", self.missing_eos_penalty),
            ("least_difference", self.least_difference),
        ] {
            if !(value.is_finite() && value >= 0.) {
                return Err(BadSetting::new(field, value, "a number that is not negative").into());
            }
        }
        Ok(())
    }

    /// Checks the settings against the policy that samples, and returns the concerns about the ends
    /// of its responses, for warnings.
    ///
    /// # Errors
    /// [`DpoError::Setting`], also for ids that the policy does not have.
    pub fn check_policy(&self, spec: &LmSpec) -> Result<Vec<RolloutConcern>, DpoError> {
        self.check()?;
        self.generation.check(spec).map_err(|error| match error {
            LmError::Setting(error) => DpoError::Setting(error.within("generation")),
            error => DpoError::Lm(error),
        })?;
        Ok(end_concerns(&self.generation, spec))
    }
}

/// Counts of the prompts of one online batch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct OnlineReport {
    /// Prompts answered.
    pub prompts: usize,
    /// Pairs made from the prompts.
    pub pairs: usize,
    /// Prompts with two identical responses, token by token.
    pub identical: usize,
    /// Prompts whose scores differ by no more than the minimum difference.
    pub ties: usize,
    /// Prompts with a response without a verdict of the reward model.
    pub unscored: usize,
    /// Mean score of all responses with a verdict, before any penalty; NaN without any.
    pub mean_score: f64,
    /// Standard deviation of these scores.
    pub score_std: f64,
    /// Mean length of a response, in tokens.
    pub mean_length: f64,
    /// Share of responses with an end of sequence.
    pub finished: f64,
}

impl OnlineReport {
    /// The numbers by name; NaN values are left out.
    pub fn metrics(&self) -> Metrics {
        [
            ("online/score", self.mean_score),
            ("online/score_std", self.score_std),
            ("online/pairs", self.pairs as f64),
            ("online/identical", self.identical as f64),
            ("online/ties", self.ties as f64),
            ("online/unscored", self.unscored as f64),
            ("online/length", self.mean_length),
            ("online/finished", self.finished),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_nan())
        .collect()
    }
}

/// Two responses of the policy to one prompt, with their scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Contest {
    /// The prompt.
    pub prompt: Prompt,
    /// The responses.
    pub responses: [Sampled; 2],
    /// The scores of the responses; `None` without a verdict.
    pub scores: [Option<f64>; 2],
    /// Index of the better response; `None` if the two make no pair.
    pub chosen: Option<usize>,
}

impl Contest {
    /// The rows of samples.jsonl: one for each response, and `chosen` in each if they make a pair.
    pub fn samples(&self, step: u64) -> [Value; 2] {
        [0, 1].map(|at| {
            let response = &self.responses[at];
            let (record, text) = (&self.prompt.record, &response.text);
            let mut row = sample_row(step, record, text, response.finish, self.scores[at]);
            if let Some(chosen) = self.chosen {
                row["chosen"] = (chosen == at).into();
            }
            row
        })
    }
}

/// The pairs of one online batch.
#[derive(Debug, Clone, PartialEq)]
pub struct OnlineBatch {
    /// The pairs, in the order of the prompts, with the difference of scores as the margin.
    pub rows: Vec<TokenPair>,
    /// The two responses to every prompt.
    pub contests: Vec<Contest>,
    /// The counts of the prompts.
    pub report: OnlineReport,
    /// A warning about responses without a verdict, if there are any ([`rlaif_rl::unscored`]).
    pub unscored: Option<String>,
}

impl<P: Policy> DpoTrainer<P> {
    /// Samples two responses to each prompt and lets `reward` select the better one. The random
    /// numbers depend on `draw` and the record's id only: a batch that is sampled again is the
    /// same, in any order.
    ///
    /// There may be no pairs: then this batch teaches nothing.
    ///
    /// # Errors
    /// Errors of sampler and reward model; [`RlError::NothingScored`] if no response has a verdict.
    pub fn sample_pairs(
        &self,
        sampler: &mut dyn Sampler,
        prompts: &[Prompt],
        reward: &dyn RewardModel,
        config: &OnlineConfig,
        draw: Draw,
    ) -> Result<OnlineBatch, DpoError> {
        // Two responses to each prompt, adjacent.
        let twice: Vec<Prompt> =
            prompts.iter().flat_map(|prompt| [prompt.clone(), prompt.clone()]).collect();
        let weights = Weights { version: self.steps_done(), ..Weights::of(self.policy()) };
        let sampled =
            sample(sampler, &twice, SamplerCall { weights, how: &config.generation, draw })?;
        let given = score(&twice, &sampled, reward)?;
        let unscored = unscored(reward.name(), &twice, &given);
        let Scores { total: scores, reasons, .. } = given;
        if scores.iter().all(Option::is_none) {
            return Err(RlError::nothing_scored(reward.name(), &reasons).into());
        }
        let scores: Vec<Option<f64>> =
            scores.iter().map(|score| score.map(|score| f64::from(score.get()))).collect();

        let known: Vec<f64> = scores.iter().flatten().copied().collect();
        let (mean_score, score_std) = mean_std(&known);
        let all = sampled.len().max(1) as f64;
        let mut report = OnlineReport {
            prompts: prompts.len(),
            mean_score,
            score_std,
            mean_length: sampled.iter().map(|r| r.ids.len() as f64).sum::<f64>() / all,
            finished: sampled.iter().filter(|r| r.is_finished()).count() as f64 / all,
            ..OnlineReport::default()
        };
        let mut rows = Vec::new();
        let mut contests = Vec::with_capacity(prompts.len());
        let (groups, _) = sampled.as_chunks::<2>();
        let (scores, _) = scores.as_chunks::<2>();
        for ((prompt, responses), scores) in prompts.iter().zip(groups).zip(scores) {
            let mut contest = Contest {
                prompt: prompt.clone(),
                responses: responses.clone(),
                scores: *scores,
                chosen: None,
            };
            match pick_pair(responses, scores, config) {
                Pick::Pair { chosen, margin } => {
                    contest.chosen = Some(chosen);
                    rows.push(TokenPair {
                        id: prompt.record.id.clone(),
                        prompt: prompt.ids.to_vec(),
                        chosen: responses[chosen].ids.clone(),
                        rejected: responses[1 - chosen].ids.clone(),
                        margin: Some(margin),
                    });
                }
                Pick::Unscored => report.unscored += 1,
                Pick::Identical => report.identical += 1,
                Pick::Tie => report.ties += 1,
            }
            contests.push(contest);
        }
        report.pairs = rows.len();
        Ok(OnlineBatch { rows, contests, report, unscored })
    }
}

/// The outcome of two responses to one prompt: a training pair, or the reason for none.
#[derive(Debug, PartialEq)]
enum Pick {
    /// Index of the better response, and the difference of their scores.
    Pair { chosen: usize, margin: f64 },
    /// A response has no score.
    Unscored,
    /// Both responses have the same tokens.
    Identical,
    /// The scores are too close.
    Tie,
}

fn pick_pair(group: &[Sampled; 2], scores: &[Option<f64>; 2], config: &OnlineConfig) -> Pick {
    let [Some(first), Some(second)] = *scores else { return Pick::Unscored };
    let [first, second] = [(first, &group[0]), (second, &group[1])].map(|(score, response)| {
        score - if response.is_finished() { 0. } else { config.missing_eos_penalty }
    });
    if group[0].ids == group[1].ids {
        return Pick::Identical;
    }
    let margin = (first - second).abs();
    if margin <= config.least_difference {
        return Pick::Tie;
    }
    Pick::Pair { chosen: usize::from(second > first), margin }
}

#[cfg(test)]
mod tests {
    use rlaif_lm::generate::FinishReason;

    use super::*;

    #[test]
    fn the_better_of_two_is_chosen_where_they_differ() {
        let config = OnlineConfig {
            missing_eos_penalty: 2.,
            least_difference: 0.5,
            ..OnlineConfig::default()
        };
        let response = |ids: &[u32], finish| Sampled {
            ids: ids.to_vec(),
            log_probs: None,
            text: String::new(),
            finish,
            version: 0,
            played: None,
        };
        let [one, other] = [[3, 1], [4, 1]].map(|ids| response(&ids, FinishReason::Eos));
        let open = response(&[5, 6], FinishReason::Length);
        let pick =
            |group: [&Sampled; 2], scores| pick_pair(&group.map(Clone::clone), &scores, &config);
        let pair = |chosen, margin| Pick::Pair { chosen, margin };
        assert_eq!(pick([&one, &other], [Some(1.), Some(3.)]), pair(1, 2.));
        assert_eq!(pick([&one, &other], [Some(3.), Some(1.)]), pair(0, 2.));
        assert_eq!(pick([&one, &open], [Some(1.), Some(2.)]), pair(0, 1.));
        assert_eq!(pick([&one, &open], [Some(1.), Some(3.5)]), Pick::Tie);
        assert_eq!(pick([&one, &one], [Some(1.), Some(3.)]), Pick::Identical);
        assert_eq!(pick([&one, &other], [None, Some(3.)]), Pick::Unscored);
    }
}
