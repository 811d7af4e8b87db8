//! Online DPO: the policy gives two responses, a reward model selects one, the update follows.

use rlaif_core::{Exchange, PromptRecord, RewardModel, Seed, TextCodec};
use rlaif_lm::{
    Draw, Joiner, LmError, LocalSampler, Policy, RowIds, Sampled, Sampler, Weights,
    generate::{Ask, GenerationConfig},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{error::DpoError, rows::PairRow, trainer::DpoTrainer};

/// Making of pairs from the policy's own responses (Guo et al. 2024, online AI feedback,
/// [arXiv:2402.04792](https://arxiv.org/abs/2402.04792)).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OnlineConfig {
    /// The sampling settings.
    pub generation: GenerationConfig,
    /// Amount subtracted from the score of a response without an end of sequence.
    pub unfinished_penalty: f64,
    /// Minimum difference of scores: pairs with a smaller or equal one are left out.
    pub least_difference: f64,
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
    /// Mean score of all responses with a verdict, before any penalty.
    pub mean_score: f64,
    /// Mean length of a response, in tokens.
    pub mean_length: f64,
    /// Share of responses with an end of sequence.
    pub finished: f64,
}

/// Two responses of the policy to one prompt, with their scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contest {
    /// The prompt's id.
    pub id: String,
    /// The responses.
    pub responses: [String; 2],
    /// The scores of the responses; `None` without a verdict.
    pub scores: [Option<f64>; 2],
}

/// The pairs of one online batch.
#[derive(Debug, Clone, PartialEq)]
pub struct OnlineBatch {
    /// The pairs, in the order of the prompts, with the difference of scores as the margin.
    pub rows: Vec<PairRow>,
    /// The two responses to every prompt.
    pub contests: Vec<Contest>,
    /// The counts of the prompts.
    pub report: OnlineReport,
}

impl<P: Policy> DpoTrainer<P> {
    /// Samples two responses to each prompt and lets `reward` select the better one. The random
    /// numbers depend on `step`, `seed` and the record's id only: a batch that is sampled again is
    /// the same, in any order.
    ///
    /// There may be no pairs: then this batch teaches nothing.
    ///
    /// # Errors
    /// Errors of generation, tokenizer and reward model.
    pub fn sample_pairs(
        &self,
        prompts: &[PromptRecord],
        codec: &dyn TextCodec,
        reward: &dyn RewardModel,
        config: &OnlineConfig,
        seed: Seed,
        step: u64,
    ) -> Result<OnlineBatch, DpoError> {
        let draw = Draw { seed, step };
        self.sample_pairs_from(&mut LocalSampler::new(codec), prompts, codec, reward, config, draw)
    }

    /// As [`Self::sample_pairs`], with the responses of another sampler.
    ///
    /// # Errors
    /// As [`Self::sample_pairs`], and any error of the sampler.
    pub fn sample_pairs_from(
        &self,
        sampler: &mut dyn Sampler,
        prompts: &[PromptRecord],
        codec: &dyn TextCodec,
        reward: &dyn RewardModel,
        config: &OnlineConfig,
        draw: Draw,
    ) -> Result<OnlineBatch, DpoError> {
        let texts: Vec<_> =
            prompts.iter().map(|record| (record.prompt.as_str(), record.kind)).collect();
        let ids = Joiner::new(codec, self.policy().spec()).open(&texts)?;
        let mut numbers = RowIds::default();
        let asks: Vec<Ask> = prompts
            .iter()
            .zip(&ids)
            .flat_map(|(record, prompt)| [(record, prompt); 2])
            .map(|(record, prompt)| Ask {
                id: numbers.of(&record.id),
                prompt: prompt.clone(),
                max_new_tokens: None,
            })
            .collect();
        let weights = Weights { version: self.steps(), ..Weights::of(self.policy()) };
        let sampled = sampler.sample(weights, &asks, &config.generation, draw)?;
        // Two responses to each prompt, adjacent.
        let (groups, []) = sampled.as_chunks::<2>() else { return Err(odd(&sampled, &asks)) };
        if groups.len() != prompts.len() {
            return Err(odd(&sampled, &asks));
        }
        let exchanges: Vec<Exchange<'_>> = prompts
            .iter()
            .zip(groups)
            .flat_map(|(record, group)| group.each_ref().map(|response| (record, response)))
            .map(|(record, response)| record.exchange(&response.text))
            .collect();
        let scores = reward.score(&exchanges)?.check(reward.name(), exchanges.len())?.total;
        let scores: Vec<Option<f64>> =
            scores.iter().map(|score| score.map(|score| f64::from(score.get()))).collect();

        let known: Vec<f64> = scores.iter().flatten().copied().collect();
        let all = sampled.len().max(1) as f64;
        let mut report = OnlineReport {
            prompts: prompts.len(),
            mean_score: known.iter().sum::<f64>() / known.len().max(1) as f64,
            mean_length: sampled.iter().map(|r| r.ids.len() as f64).sum::<f64>() / all,
            finished: sampled.iter().filter(|r| r.is_finished()).count() as f64 / all,
            ..OnlineReport::default()
        };
        let mut rows = Vec::new();
        let mut contests = Vec::with_capacity(prompts.len());
        let (scores, _) = scores.as_chunks::<2>();
        for (((record, prompt), group), scores) in prompts.iter().zip(ids).zip(groups).zip(scores) {
            contests.push(Contest {
                id: record.id.clone(),
                responses: group.each_ref().map(|response| response.text.clone()),
                scores: *scores,
            });
            match pick_pair(group, scores, config) {
                Pick::Pair { chosen, rejected, margin } => rows.push(PairRow {
                    id: record.id.clone(),
                    prompt,
                    chosen: group[chosen].ids.clone(),
                    rejected: group[rejected].ids.clone(),
                    margin: Some(margin),
                }),
                Pick::Unscored => report.unscored += 1,
                Pick::Identical => report.identical += 1,
                Pick::Tie => report.ties += 1,
            }
        }
        report.pairs = rows.len();
        Ok(OnlineBatch { rows, contests, report })
    }
}

/// The error for a sampler that returns another number of responses than it was asked for.
fn odd(sampled: &[Sampled], asks: &[Ask]) -> DpoError {
    let what = "responses of the sampler";
    DpoError::Lm(LmError::BatchMismatch { what, expected: asks.len(), found: sampled.len() })
}

/// The outcome of two responses to one prompt: a training pair, or the reason for none.
#[derive(Debug, PartialEq)]
enum Pick {
    /// Indices of the better and the other response, and the difference of their scores.
    Pair { chosen: usize, rejected: usize, margin: f64 },
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
        score - if response.is_finished() { 0. } else { config.unfinished_penalty }
    });
    if group[0].ids == group[1].ids {
        return Pick::Identical;
    }
    let margin = (first - second).abs();
    if margin <= config.least_difference {
        return Pick::Tie;
    }
    let chosen = usize::from(second > first);
    Pick::Pair { chosen, rejected: 1 - chosen, margin }
}

#[cfg(test)]
mod tests {
    use rlaif_lm::generate::FinishReason;

    use super::*;

    #[test]
    fn the_better_of_two_is_chosen_where_they_differ() {
        let config = OnlineConfig {
            unfinished_penalty: 2.,
            least_difference: 0.5,
            ..OnlineConfig::default()
        };
        let response = |ids: &[u32], finish| Sampled {
            ids: ids.to_vec(),
            log_probs: None,
            text: String::new(),
            finish,
            version: 0,
        };
        let [one, other] = [[3, 1], [4, 1]].map(|ids| response(&ids, FinishReason::Eos));
        let open = response(&[5, 6], FinishReason::Length);
        let pick =
            |group: [&Sampled; 2], scores| pick_pair(&group.map(Clone::clone), &scores, &config);
        let pair = |chosen, margin| Pick::Pair { chosen, rejected: 1 - chosen, margin };
        assert_eq!(pick([&one, &other], [Some(1.), Some(3.)]), pair(1, 2.));
        assert_eq!(pick([&one, &other], [Some(3.), Some(1.)]), pair(0, 2.));
        assert_eq!(pick([&one, &open], [Some(1.), Some(2.)]), pair(0, 1.));
        assert_eq!(pick([&one, &open], [Some(1.), Some(3.5)]), Pick::Tie);
        assert_eq!(pick([&one, &one], [Some(1.), Some(3.)]), Pick::Identical);
        assert_eq!(pick([&one, &other], [None, Some(3.)]), Pick::Unscored);
    }
}
