//! One batch of experience: responses, scores, and the models' quantities for their tokens.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Instant};

use rlaif_core::{PromptRecord, Score, Scores, stats::RunningMoments};
use rlaif_lm::{
    LmError, Mask, Padding, Prompt, Sampled, TokenBatch, generate::FinishReason, place,
};
use rlaif_train::Advantages;
use serde_json::{Value, json};
use tch::Tensor;

use crate::{
    ask::Asking,
    batch::{counted, host, int, pick},
    error::RlError,
    score::unscored,
    scores::ScoreConfig,
};

/// One batch of experience. Tensors are f32 `[B, T]`, 0 where masked; T is the longest response.
#[derive(Debug)]
pub struct Rollout {
    /// The trainer's step in which the batch was sampled.
    pub step: u64,
    /// The records of the prompts.
    pub records: Vec<Arc<PromptRecord>>,
    /// Token ids of the prompts.
    pub prompts: TokenBatch,
    /// Token ids of the responses, EOS included.
    pub responses: TokenBatch,
    /// The responses as text, for reward models; empty texts if only ids were given.
    pub texts: Vec<String>,
    /// The reasons why the responses ended.
    pub finish: Vec<FinishReason>,
    /// The versions of the weights that sampled the responses, as the sampler tells them.
    pub versions: Vec<u64>,
    /// The tokens that count in rewards, advantages, losses and statistics.
    pub mask: Mask,
    /// Ranges of tokens that the policy did not choose, such as those of an environment, by row; they do not
    /// count.
    pub given: Vec<Vec<Range<usize>>>,
    /// Statistics of episodes, if the responses are episodes.
    pub episodes: Option<EpisodeStats>,
    /// log π(y_t) under the weights at the start of the step. They are those that sampled, unless responses are
    /// older than the step.
    pub log_probs: Tensor,
    /// log π_ref(y_t).
    pub ref_log_probs: Tensor,
    /// The KL penalty's estimate at each token.
    pub kl: Tensor,
    /// V(s_t) under the weights that sampled; for algorithms with a value function.
    pub values: Option<Tensor>,
    /// The score of each response from the reward model, minus the penalty for a missing EOS;
    /// `None` if the response is dropped.
    pub scores: Vec<Option<f64>>,
    /// A warning about responses without a verdict, if there are any ([`crate::unscored`]).
    pub unscored: Option<String>,
    /// Parts of the scores, by name.
    pub parts: Vec<(String, Vec<Option<f64>>)>,
    /// The scores after scaling and clipping, used for training.
    pub shaped_scores: Vec<Option<f64>>,
    /// The order of the rows in each epoch of an update. It is drawn with the rollout, whose
    /// log-probabilities are computed in the batches of the first epoch, so that the first ratio is
    /// exactly 1.
    pub orders: Vec<Vec<usize>>,
    /// log π(y_t) from the sampler, if it gives them; 0 after a response's end.
    pub sampler_log_probs: Option<Tensor>,
    /// Mean absolute difference between the log-probabilities of the sampler and of the training
    /// pass, in nats, if the sampler gives its own.
    pub sampler_gap: Option<f64>,
    /// Seconds of each phase so far, with the names in `time/ppo/`.
    pub seconds: Vec<(&'static str, f64)>,
}

/// Statistics of the episodes of a rollout.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EpisodeStats {
    /// Turns of the policy in each.
    pub turns: Vec<f64>,
    /// Events by name, summed over all.
    pub counts: BTreeMap<String, u32>,
}

impl EpisodeStats {
    /// `None` if no response is an episode.
    fn of(sampled: &[Sampled]) -> Option<Self> {
        let mut all: Option<Self> = None;
        for played in sampled.iter().filter_map(|response| response.played.as_deref()) {
            let all = all.get_or_insert_default();
            all.turns.push(played.rewards.len() as f64);
            for (event, count) in &played.counts {
                *all.counts.entry(event.clone()).or_default() += count;
            }
        }
        all
    }
}

/// The settings of a rollout that are not those of a model.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The step of the algorithm.
    pub step: u64,
    /// Transformations of scores.
    pub scores: &'a ScoreConfig,
    /// The statistics of all scores so far.
    pub moments: &'a mut RunningMoments,
    /// The order of the rows in each epoch of the update.
    pub orders: Vec<Vec<usize>>,
    /// The rows of each pass; every row occurs once. Use the passes of the first epoch
    /// ([`crate::passes`]) for a first ratio of exactly 1.
    pub chunks: Vec<Vec<usize>>,
    /// Seconds of earlier phases, with the names in `time/ppo/`.
    pub seconds: Vec<(&'static str, f64)>,
}

/// The rows of a rollout in one pass.
#[derive(Debug)]
pub struct RolloutPart {
    /// Token ids of the prompts.
    pub prompts: TokenBatch,
    /// Token ids of the responses.
    pub responses: TokenBatch,
    /// The tokens that count.
    pub mask: Mask,
    /// log π(y_t) under the weights that sampled.
    pub log_probs: Tensor,
    /// The advantages of these rows.
    pub advantages: Tensor,
    /// Targets of the value function.
    pub returns: Tensor,
    /// V(s_t) under the weights that sampled.
    pub values: Option<Tensor>,
}

impl Rollout {
    /// Shapes the scores of sampled responses, and computes the models' quantities for their
    /// tokens. The moments of `plan` are updated only on success.
    ///
    /// # Errors
    /// [`RlError::Rows`] unless there is a response and a score for each prompt;
    /// [`RlError::EmptyResponse`], [`RlError::NoScore`], [`RlError::NothingScored`],
    /// [`RlError::SamplerLogProbs`]; [`RlError::Lm`] for rows that a model cannot take.
    pub fn ask(
        asking: &Asking<'_>,
        prompts: &[Prompt],
        sampled: Vec<Sampled>,
        (reward, given): (&str, &Scores),
        plan: Plan<'_>,
    ) -> Result<Self, RlError> {
        let start = Instant::now();
        let rows = prompts.len();
        if sampled.len() != rows {
            return Err(RlError::Rows { what: "responses", expected: rows, found: sampled.len() });
        }
        if let Some(row) = sampled.iter().position(|response| response.ids.is_empty()) {
            return Err(RlError::EmptyResponse { row });
        }
        let ended: Vec<bool> = sampled.iter().map(Sampled::is_finished).collect();
        let scores = plan.scores.resolve(reward, given, &ended);
        let scores = scores.map_err(|error| error.in_row(place(prompts)))?;
        if scores.iter().all(Option::is_none) {
            return Err(RlError::nothing_scored(reward, &given.reasons));
        }
        let mut moments = *plan.moments;
        let mut shaped_scores = scores.clone();
        plan.scores.shape(&mut shaped_scores, &mut moments);

        let episodes = EpisodeStats::of(&sampled);
        let queries = (prompts.iter().zip(&sampled)).map(|(prompt, response)| {
            let own = response.played.as_ref().and_then(|played| played.prompt.clone());
            own.unwrap_or_else(|| prompt.ids.to_vec())
        });
        let queries = queries.collect();
        let (mut texts, mut finish) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let versions = sampled.iter().map(|response| response.version).collect();
        let (mut ids, mut given_tokens) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let mut forks = Vec::with_capacity(rows);
        let mut told = Some(Vec::with_capacity(rows));
        for response in sampled {
            ids.push(response.ids);
            let played = response.played.map(|played| *played).unwrap_or_default();
            given_tokens.push(played.given);
            forks.push(played.forks);
            texts.push(response.text);
            finish.push(response.finish);
            told = told.zip(response.log_probs).map(|(mut told, log_probs)| {
                told.push(log_probs);
                told
            });
        }
        let spec = asking.policy.spec();
        let queries = TokenBatch::collate(queries, spec, Padding::Right)?;
        let responses = TokenBatch::responses(ids, spec)?.forked(&forks)?;
        check_forks(&forks, &given_tokens)?;
        let mask = counted(&responses, &scores, &given_tokens);
        let asked = asking.ask(&queries, &responses, &plan.chunks)?;
        asked.check(&mask, prompts)?;
        let log_probs = mask.apply(&asked.log_probs);
        let sampler_log_probs =
            told.map(|told| spread(&told, &responses, &log_probs)).transpose()?;
        *plan.moments = moments;
        let of_part = |(name, part): &(String, Vec<Option<Score>>)| {
            let part = part.iter().map(|score| score.map(|score| f64::from(score.get())));
            (name.clone(), part.collect())
        };
        let mut rollout = Self {
            step: plan.step,
            records: prompts.iter().map(|prompt| Arc::clone(&prompt.record)).collect(),
            prompts: queries,
            responses,
            texts,
            finish,
            versions,
            log_probs,
            ref_log_probs: mask.apply(&asked.ref_log_probs),
            kl: mask.apply(&asked.kl),
            values: asked.values.map(|values| mask.apply(&values)),
            mask,
            given: given_tokens,
            episodes,
            scores,
            unscored: unscored(reward, prompts, given),
            parts: given.parts.iter().map(of_part).collect(),
            shaped_scores,
            orders: plan.orders,
            sampler_log_probs,
            sampler_gap: None,
            seconds: plan.seconds,
        };
        rollout.seconds.push(("forward_pass", start.elapsed().as_secs_f64()));
        let all: Vec<usize> = (0..rollout.len()).collect();
        rollout.sampler_gap = rollout.sampler_gap_of(&all);
        Ok(rollout)
    }

    /// Mean absolute difference between the log-probabilities of the sampler and of the training pass over some
    /// rows, in nats. `None` without those of the sampler, or if no token of these rows counts.
    pub fn sampler_gap_of(&self, rows: &[usize]) -> Option<f64> {
        let sampler = self.sampler_log_probs.as_ref().filter(|_| self.tokens_of(rows) > 0)?;
        let width = self.responses.width();
        let of = |x: &Tensor| pick(x, rows, width);
        let mask = Mask::new(of(self.mask.tensor()));
        Some(host(&mask.mean(&(of(sampler) - of(&self.log_probs)).abs()))[0])
    }

    /// The largest number of updates between the weights that sampled a response and those of the step.
    pub fn staleness(&self) -> u64 {
        self.versions.iter().map(|&version| self.step.saturating_sub(version)).max().unwrap_or(0)
    }

    /// Number of responses B.
    pub fn len(&self) -> usize {
        self.responses.len()
    }

    /// Always `false`: a batch has rows.
    pub fn is_empty(&self) -> bool {
        self.responses.is_empty()
    }

    /// Checks that a tensor has a number for each token.
    ///
    /// # Errors
    /// [`RlError::Shape`] with the field's name.
    pub fn check_shape(&self, what: &'static str, found: &Tensor) -> Result<(), RlError> {
        let expected = [int(self.len()), int(self.responses.width())];
        if found.size() == expected {
            return Ok(());
        }
        Err(RlError::Shape { what, expected, found: found.size() })
    }

    /// Checks a rollout, whose fields may have been replaced: its step, its number of rows, and
    /// that every tensor has a number for each token.
    ///
    /// # Errors
    /// [`RlError::StaleRollout`], [`RlError::Rows`], [`RlError::Shape`], [`RlError::Order`].
    pub fn check(&self, step: u64, rows: usize) -> Result<(), RlError> {
        if self.step != step {
            return Err(RlError::StaleRollout { expected: step, found: self.step });
        }
        for (what, found) in [
            ("prompts of the rollout", self.prompts.len()),
            ("responses of the rollout", self.responses.len()),
            ("scores of the rollout", self.scores.len()),
            ("shaped scores of the rollout", self.shaped_scores.len()),
        ] {
            if found != rows {
                return Err(RlError::Rows { what, expected: rows, found });
            }
        }
        let values = self.values.as_ref().map(|values| ("values", values));
        let tensors = [
            ("mask", self.mask.tensor()),
            ("log_probs", &self.log_probs),
            ("ref_log_probs", &self.ref_log_probs),
            ("kl", &self.kl),
        ];
        for (what, tensor) in tensors.into_iter().chain(values) {
            self.check_shape(what, tensor)?;
        }
        Ok(())
    }

    /// Checks that the orders name only existing rows.
    ///
    /// # Errors
    /// [`RlError::Order`].
    pub fn check_orders(&self) -> Result<(), RlError> {
        let rows = self.len();
        for (epoch, order) in self.orders.iter().enumerate() {
            if let Some(&row) = order.iter().find(|&&row| row >= rows) {
                return Err(RlError::Order { epoch, row, rows });
            }
        }
        Ok(())
    }

    /// `true` if a row counts, which means that it has a score.
    pub fn counts(&self, row: usize) -> bool {
        self.scores[row].is_some()
    }

    /// Number of tokens of a row that count.
    pub fn tokens(&self, row: usize) -> usize {
        if !self.counts(row) {
            return 0;
        }
        let given = self.given.get(row).into_iter().flatten();
        let given: usize = given.map(ExactSizeIterator::len).sum();
        self.responses.rows()[row].len().saturating_sub(given)
    }

    /// Number of tokens of some rows that count.
    pub fn tokens_of(&self, rows: &[usize]) -> usize {
        rows.iter().map(|&row| self.tokens(row)).sum()
    }

    /// A row of samples.jsonl: prompt, response and score.
    pub fn sample(&self, step: u64, row: usize) -> Value {
        let (text, finish) = (&self.texts[row], self.finish[row]);
        let mut sample = sample_row(step, &self.records[row], text, finish, self.scores[row]);
        if !self.parts.is_empty() {
            let parts = self.parts.iter().map(|(name, part)| (name.clone(), part[row].into()));
            sample["parts"] = Value::Object(parts.collect());
        }
        sample
    }

    /// The rows of one pass, with their advantages, padded to the longest response among them.
    ///
    /// # Errors
    /// [`RlError::Lm`] without rows.
    pub fn part(&self, advantages: &Advantages, rows: &[usize]) -> Result<RolloutPart, RlError> {
        let (prompts, responses) = (self.prompts.select(rows)?, self.responses.select(rows)?);
        let width = responses.width();
        let of = |tensor: &Tensor| pick(tensor, rows, width);
        Ok(RolloutPart {
            mask: Mask::new(of(self.mask.tensor())),
            log_probs: of(&self.log_probs),
            values: self.values.as_ref().map(of),
            advantages: of(&advantages.advantages),
            returns: of(&advantages.returns),
            prompts,
            responses,
        })
    }
}

/// Checks that sequences start over with tokens that nobody sampled: nothing predicts the first of them.
fn check_forks(forks: &[Vec<usize>], given: &[Vec<Range<usize>>]) -> Result<(), LmError> {
    for (row, (forks, given)) in forks.iter().zip(given).enumerate() {
        if !forks.iter().all(|at| given.iter().any(|given| given.contains(at))) {
            let expected = format!("tokens of the environment, which has {given:?}");
            return Err(LmError::Forks { row, found: forks.clone(), expected });
        }
    }
    Ok(())
}

/// A row of samples.jsonl: the same keys for every algorithm that samples.
pub fn sample_row(
    step: u64,
    record: &PromptRecord,
    response: &str,
    finish: FinishReason,
    score: Option<f64>,
) -> Value {
    json!({
        "step": step,
        "id": record.id,
        "prompt": record.prompt,
        "response": response,
        "score": score,
        "finish_reason": finish,
    })
}

/// The sampler's numbers, one for each token of each response, as `[B, T]` with the shape of
/// another tensor.
fn spread(rows: &[Vec<f32>], responses: &TokenBatch, like: &Tensor) -> Result<Tensor, RlError> {
    let width = responses.width();
    let mut flat = vec![0f32; rows.len() * width];
    for (row, (values, ids)) in rows.iter().zip(responses.rows()).enumerate() {
        if values.len() != ids.len() {
            let (expected, found) = (ids.len(), values.len());
            return Err(RlError::SamplerLogProbs { row, expected, found });
        }
        flat[row * width..][..values.len()].copy_from_slice(values);
    }
    Ok(Tensor::from_slice(&flat).view(like.size().as_slice()).to_device(like.device()))
}
