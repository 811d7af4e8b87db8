//! Online DPO: the policy answers twice, a reward model picks, the update follows.

use rlaif_core::{Exchange, PromptRecord, RewardModel, Seed, Specials, TextCodec};
use rlaif_lm::{
    Forward, Policy,
    generate::{FinishReason, Generated, GenerationConfig, GenerationRow, Hooks, generate},
};
use serde::{Deserialize, Serialize};

use crate::{error::DpoError, rows::PairRow, trainer::DpoTrainer};

/// How pairs are made of the policy's own responses (Guo et al. 2024, online AI feedback,
/// [arXiv:2402.04792](https://arxiv.org/abs/2402.04792)).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnlineConfig {
    /// How responses are sampled.
    pub generation: GenerationConfig,
    /// What is taken off the score of a response that does not end by itself.
    pub unfinished_penalty: f64,
    /// Pairs whose scores are no further apart than this teach nothing, and are left out.
    pub least_difference: f64,
}

/// What became of the prompts of one online batch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct OnlineReport {
    /// Prompts answered.
    pub prompts: usize,
    /// Pairs made of them.
    pub pairs: usize,
    /// Prompts whose two responses are the same, token by token.
    pub identical: usize,
    /// Prompts whose responses have the same score, to the least difference.
    pub ties: usize,
    /// Prompts with a response that the reward model gave no verdict on.
    pub unscored: usize,
    /// Mean score of all responses with a verdict, before any penalty.
    pub mean_score: f64,
    /// Mean number of tokens of a response.
    pub mean_length: f64,
    /// Share of the responses that ended by themselves.
    pub finished: f64,
}

/// Two responses of the policy to one prompt, with their scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contest {
    /// The prompt's id.
    pub id: String,
    /// The responses.
    pub responses: [String; 2],
    /// Their scores; `None` without a verdict.
    pub scores: [Option<f64>; 2],
}

/// The pairs of one online batch.
#[derive(Debug, Clone, PartialEq)]
pub struct OnlineBatch {
    /// The pairs, in the order of the prompts, with the difference of scores as margin.
    pub rows: Vec<PairRow>,
    /// Every prompt's two responses.
    pub contests: Vec<Contest>,
    /// What became of the prompts.
    pub report: OnlineReport,
}

impl<P: Policy> DpoTrainer<P> {
    /// Has the policy answer each prompt twice and `reward` pick the better answer. `step` decides,
    /// with `seed`, the random numbers: a batch that is sampled again is the same.
    ///
    /// The pairs may be none: then there is nothing to learn from this batch.
    ///
    /// # Errors
    /// What generation, tokenizer and reward model refuse.
    pub fn sample_pairs(
        &self,
        prompts: &[PromptRecord],
        codec: &dyn TextCodec,
        reward: &dyn RewardModel,
        config: &OnlineConfig,
        seed: Seed,
        step: u64,
    ) -> Result<OnlineBatch, DpoError> {
        let texts: Vec<&str> = prompts.iter().map(|record| record.prompt.as_str()).collect();
        let ids = codec.encode_batch(&texts, Specials::Include)?;
        let rows: Vec<GenerationRow> = (0..2)
            .flat_map(|_| &ids)
            .zip(0..)
            .map(|(prompt, id)| GenerationRow { id, prompt: prompt.clone(), max_new_tokens: None })
            .collect();
        let hooks = Hooks { codec: Some(codec), on_token: None };
        let forward = Forward::default();
        let generated =
            generate(self.policy(), &rows, &config.generation, seed, step, forward, hooks)?;
        let responses = generated
            .iter()
            .map(|response| codec.decode(&response.ids, Specials::Exclude))
            .collect::<Result<Vec<_>, _>>()?;
        let exchanges: Vec<Exchange<'_>> = (0..2)
            .flat_map(|_| prompts)
            .zip(&responses)
            .map(|(record, response)| record.exchange(response))
            .collect();
        let scores = reward.score(&exchanges)?.check(reward.name(), exchanges.len())?.total;
        let scores: Vec<Option<f64>> =
            scores.iter().map(|score| score.map(|score| f64::from(score.get()))).collect();

        let finished = |response: &Generated| response.finish != FinishReason::Length;
        let known: Vec<f64> = scores.iter().flatten().copied().collect();
        let all = generated.len().max(1) as f64;
        let mut report = OnlineReport {
            prompts: prompts.len(),
            mean_score: known.iter().sum::<f64>() / known.len().max(1) as f64,
            mean_length: generated.iter().map(|r| r.ids.len() as f64).sum::<f64>() / all,
            finished: generated.iter().filter(|r| finished(r)).count() as f64 / all,
            ..OnlineReport::default()
        };
        let mut pairs = Vec::new();
        let mut contests = Vec::with_capacity(prompts.len());
        for (at, record) in prompts.iter().enumerate() {
            let both = [at, at + prompts.len()];
            contests.push(Contest {
                id: record.id.clone(),
                responses: both.map(|place| responses[place].clone()),
                scores: both.map(|place| scores[place]),
            });
            let penalised = both.map(|place| {
                let penalty =
                    if finished(&generated[place]) { 0. } else { config.unfinished_penalty };
                scores[place].map(|score| score - penalty)
            });
            let [Some(first), Some(second)] = penalised else {
                report.unscored += 1;
                continue;
            };
            let [one, other] = both.map(|place| &generated[place].ids);
            if one == other {
                report.identical += 1;
                continue;
            }
            if (first - second).abs() <= config.least_difference {
                report.ties += 1;
                continue;
            }
            let (chosen, rejected) = if first > second { (one, other) } else { (other, one) };
            pairs.push(PairRow {
                id: record.id.clone(),
                prompt: ids[at].clone(),
                chosen: chosen.clone(),
                rejected: rejected.clone(),
                margin: Some((first - second).abs()),
            });
        }
        report.pairs = pairs.len();
        Ok(OnlineBatch { rows: pairs, contests, report })
    }
}
