//! A language model behind an API as a reward model.

use std::ops::ControlFlow;
use std::path::Path;

use rlaif_core::{Exchange, RewardError, RewardModel, Scores, Tell};
use rlaif_http::{EnvVars, process_environment};

use super::client::{LlmAsk, LlmClient, WHO};
use super::config::{JudgeConfig, LlmApi};
use super::exchange::stopped;
use super::spending::Usage;
use crate::ProviderError;
use crate::rubric::{self, Answer, AnswerForm, Judged, Rubric};

/// A judge: a rubric, and a language model behind an API that applies it.
///
/// Each row is judged `samples` times, and the mean of the verdicts is its score. A row without
/// any verdict has no score, but a reason. Equal rows are judged once. An error that affects every
/// row (a wrong key, an unknown model, an exhausted account) is an error of the batch; the answers
/// until then are in the cache. Parts: `coverage` for expectations; with several samples, `samples`
/// and `spread`, the sample standard deviation.
///
/// ```no_run
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::judge::{JudgeConfig, LlmJudge};
/// let config = JudgeConfig::from_toml(r#"
///     rubric = "toxicity"
///     cache = "judge.sqlite"
///     [api]
///     kind = "anthropic"
///     model = "claude-haiku-4-5"
/// "#, "judge.toml")?;
/// let judge = LlmJudge::new(&config)?;
/// println!("{:?}", judge.score(&[Exchange::new("Hello.", "I like you.")])?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LlmJudge {
    name: String,
    rubric: Rubric,
    samples: u32,
    client: LlmClient,
}

impl LlmJudge {
    /// Creates the judge of a configuration, with the keys of the environment.
    ///
    /// # Errors
    /// [`ProviderError`] when a setting does not fit the API, a key is missing, or the cache
    /// cannot be opened.
    pub fn new(config: &JudgeConfig<LlmApi>) -> Result<Self, ProviderError> {
        Self::with_environment(config, &process_environment)
    }

    /// Creates the judge of a configuration, with keys from another source.
    ///
    /// # Errors
    /// As [`LlmJudge::new`].
    pub fn with_environment(
        config: &JudgeConfig<LlmApi>,
        environment: EnvVars<'_>,
    ) -> Result<Self, ProviderError> {
        Self::of(config, &config.api, environment)
    }

    /// Creates the judge of a configuration whose `api` was already resolved.
    pub(crate) fn of<A>(
        config: &JudgeConfig<A>,
        api: &LlmApi,
        environment: EnvVars<'_>,
    ) -> Result<Self, ProviderError> {
        config.check()?;
        let rubric = config.rubric()?;
        let service = config.service(Path::new(""));
        let log_probs = rubric.form() == AnswerForm::Expectation;
        Ok(Self {
            name: config.name.clone(),
            client: LlmClient::of(&service, api, log_probs, environment)?,
            rubric,
            samples: config.samples.unwrap_or(1),
        })
    }

    /// Usage so far.
    pub fn usage(&self) -> Usage {
        self.client.usage()
    }

    /// Passes on the verdicts of each row once all of them have arrived, or the reason why it
    /// could not be judged.
    fn each_row(
        &self,
        batch: &[Exchange<'_>],
        tell: &mut dyn FnMut(usize, Result<Vec<Judged>, String>) -> ControlFlow<()>,
    ) -> Result<(), RewardError> {
        let mut asks: Vec<LlmAsk> = Vec::new();
        // The row of each question, and for each row the places of its own.
        let (mut row_of, mut questions_of) = (Vec::new(), vec![0..0; batch.len()]);
        for (row, exchange) in batch.iter().enumerate() {
            match self.rubric.ask(exchange) {
                Ok(question) => {
                    let from = asks.len();
                    asks.extend((0..self.samples).map(|sample| LlmAsk {
                        question: question.clone(),
                        shape: self.rubric.form().shape(),
                        sample,
                    }));
                    row_of.resize(asks.len(), row);
                    questions_of[row] = from..asks.len();
                }
                Err(unread) => {
                    if tell(row, Err(unread.to_string())).is_break() {
                        return Ok(());
                    }
                }
            }
        }
        let mut missing: Vec<usize> = questions_of.iter().map(ExactSizeIterator::len).collect();
        let mut verdicts: Vec<Option<Judged>> = vec![None; asks.len()];
        let failed =
            |source| RewardError::Failed { model: self.name.clone(), source: Box::new(source) };
        let read = |answer: &Answer| self.rubric.read(answer);
        self.client
            .ask_each(&asks, &read, &mut |ask, told| {
                verdicts[ask] =
                    Some(told.map(|told| told.value).map_err(|unanswered| unanswered.reason));
                let row = row_of[ask];
                missing[row] -= 1;
                if missing[row] == 0 {
                    let of_row = verdicts[questions_of[row].clone()].iter().flatten().cloned();
                    tell(row, Ok(of_row.collect()))?;
                }
                ControlFlow::Continue(())
            })
            .map_err(failed)?;
        RewardError::if_interrupted(&self.name)
    }
}

impl RewardModel for LlmJudge {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let mut rows = vec![Err(stopped(WHO)); batch.len()];
        self.each_row(batch, &mut |row, verdicts| {
            rows[row] = verdicts;
            ControlFlow::Continue(())
        })?;
        Ok(rubric::scores(rows.into_iter(), self.rubric.form(), self.samples))
    }

    fn score_each(&self, batch: &[Exchange<'_>], tell: &mut Tell<'_>) -> Result<(), RewardError> {
        self.each_row(batch, &mut |row, verdicts| {
            tell(row, rubric::scores([verdicts].into_iter(), self.rubric.form(), self.samples))
        })
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        let usage = self.usage();
        let mut metrics = vec![
            ("requests", usage.requests as f64),
            ("retries", usage.retries as f64),
            ("reasks", usage.reasks as f64),
            ("cached", usage.cached as f64),
            ("input_tokens", usage.input_tokens as f64),
            ("output_tokens", usage.output_tokens as f64),
            ("lost_tokens", usage.lost_tokens as f64),
        ];
        metrics.extend(usage.cost.map(|cost| ("cost", cost)));
        metrics.into_iter().map(|(key, value)| (format!("{}/{key}", self.name), value)).collect()
    }
}
