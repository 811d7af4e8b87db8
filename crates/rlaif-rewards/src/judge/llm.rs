//! A language model behind an API as a reward model.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use rlaif_core::{Exchange, Interrupted, RewardError, RewardModel, Scores, Tell};
use rlaif_http::{Environment, Stop, process_environment};

use super::api::{Api, Ask};
use super::cache::{self, Cache, Key};
use super::config::{JudgeConfig, LlmApi, SamplingConfig};
use super::exchange::{Asking, Message, Read, Service, stopped};
use super::optional::{Optional, Without};
use super::refusal::{Complaint, Fatal, excerpt};
use super::spending::{Ledger, Tokens, Usage};
use crate::ProviderError;
use crate::rubric::{self, Answer, AnswerForm, Judged, Question, Reading, Rubric, Unread};
use crate::sync::lock;

/// The name of the service, in reasons.
const WHO: &str = "judge";

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
    reasks: u32,
    sampling: SamplingConfig,
    api: Api,
    service: Service,
    cache: Option<Cache>,
    /// The optional parts that this model has refused; see [`Without`].
    without: AtomicU8,
}

/// One question.
struct Job {
    question: Question,
    sample: u32,
    key: Key,
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
        environment: Environment<'_>,
    ) -> Result<Self, ProviderError> {
        Self::of(config, &config.api, environment)
    }

    /// Creates the judge of a configuration whose `api` was already resolved.
    pub(crate) fn of<A>(
        config: &JudgeConfig<A>,
        api: &LlmApi,
        environment: Environment<'_>,
    ) -> Result<Self, ProviderError> {
        config.check()?;
        let rubric = config.rubric()?;
        let api = Api::new(api, rubric.form(), &config.sampling, environment)?;
        let ledger = Ledger::new(config.price, config.budget);
        Ok(Self {
            name: config.name.clone(),
            rubric,
            samples: config.samples.unwrap_or(1),
            reasks: config.reasks.unwrap_or(1),
            sampling: config.sampling.clone(),
            service: Service::new(&api.host, &config.limits, ledger),
            api,
            cache: config.cache.as_deref().map(Cache::open).transpose()?,
            without: AtomicU8::new(0),
        })
    }

    /// Usage so far.
    pub fn usage(&self) -> Usage {
        self.service.ledger.usage()
    }

    fn ask_for<'a>(&'a self, question: &'a Question, sample: u32, without: Without) -> Ask<'a> {
        Ask { question, form: self.rubric.form(), sampling: &self.sampling, sample, without }
    }

    /// Passes on the verdicts of these questions as they arrive. An error ends the questions
    /// that are still open. A question that was not sent has no verdict.
    fn verdicts(
        &self,
        jobs: &[Job],
        tell: &mut dyn FnMut(usize, Judged) -> ControlFlow<()>,
    ) -> Result<(), ProviderError> {
        let keys: Vec<Key> = jobs.iter().map(|job| job.key).collect();
        let known = match &self.cache {
            Some(cache) => cache.get(&keys)?,
            None => vec![None; jobs.len()],
        };
        let read = |answer: Option<Answer>| self.rubric.read(&answer?).ok();
        let mut open = Vec::new();
        for (job, answer) in known.into_iter().enumerate() {
            match read(answer) {
                Some(reading) if tell(job, Ok(reading)).is_break() => return Ok(()),
                Some(_) => {}
                None => open.push(job),
            }
        }
        self.service.ledger.count(|usage| usage.cached += (jobs.len() - open.len()) as u64);

        let stop = Stop::default();
        let failure = Mutex::new(None);
        let ask = |at: usize| {
            self.ask(&jobs[open[at]], &stop).map_err(|error| {
                lock(&failure).get_or_insert(error);
                stop.stop();
            })
        };
        let unasked = Err(stopped(WHO));
        self.service.each(open.len(), &stop, ask, |at, verdict| match verdict {
            Ok(verdict) if verdict != unasked => tell(open[at], verdict),
            _ => ControlFlow::Continue(()),
        });
        lock(&failure).take().map_or(Ok(()), Err)
    }

    /// Passes on the verdicts of each row once all of them have arrived, or the reason why it
    /// could not be judged.
    fn each_row(
        &self,
        batch: &[Exchange<'_>],
        tell: &mut dyn FnMut(usize, Result<Vec<Judged>, String>) -> ControlFlow<()>,
    ) -> Result<(), RewardError> {
        let (jobs, rows) = self.jobs(batch);
        let mut rows_of: Vec<Vec<usize>> = vec![Vec::new(); jobs.len()];
        let mut missing = vec![0; rows.len()];
        let mut verdicts: Vec<Option<Judged>> = vec![None; jobs.len()];
        for (row, samples) in rows.iter().enumerate() {
            match samples {
                Ok(samples) => {
                    missing[row] = samples.len();
                    samples.iter().for_each(|&job| rows_of[job].push(row));
                }
                Err(reason) => {
                    if tell(row, Err(reason.clone())).is_break() {
                        return Ok(());
                    }
                }
            }
        }
        let failed =
            |source| RewardError::Failed { model: self.name.clone(), source: Box::new(source) };
        self.verdicts(&jobs, &mut |job, verdict| {
            verdicts[job] = Some(verdict);
            for &row in &rows_of[job] {
                missing[row] -= 1;
                if missing[row] == 0 {
                    let of_row = rows[row].iter().flatten();
                    let of_row = of_row.filter_map(|&job| verdicts[job].clone()).collect();
                    tell(row, Ok(of_row))?;
                }
            }
            ControlFlow::Continue(())
        })
        .map_err(failed)?;
        Interrupted::check().map_err(|source| {
            let model = self.name.clone();
            RewardError::Interrupted { model, source }
        })
    }

    fn ask(&self, job: &Job, stop: &Stop) -> Result<Judged, ProviderError> {
        let asked = Asked { judge: self, job, without: self.without(), reasks: 0 };
        let answered = self.service.ask(asked, stop)?;
        Ok(match answered {
            Ok((reading, answer)) => {
                if let Some(cache) = &self.cache
                    && let Some(answer) = self.keepable(answer, reading)
                {
                    cache.put(&job.key, &answer)?;
                }
                Ok(reading)
            }
            Err(reason) => Err(reason),
        })
    }

    /// An answer that may be stored: a key that a server repeats must not get into any file.
    fn keepable(&self, answer: Answer, reading: Reading) -> Option<Answer> {
        if !self.api.reveals(&answer.text) {
            return Some(answer);
        }
        let cleared = Answer { text: self.api.redact(&answer.text), ..answer };
        let same = cleared.tokens.is_empty() && self.rubric.read(&cleared) == Ok(reading);
        same.then_some(cleared)
    }

    /// The reason why an answer has no verdict, without any secrets that the server may have
    /// repeated in it.
    fn told(&self, unread: &Unread, answer: &Answer) -> String {
        if self.api.reveals(&answer.text) {
            return "the judge's answer gives no verdict and has the key in it: [redacted]"
                .to_owned();
        }
        unread.to_string()
    }

    fn without(&self) -> Without {
        Without(self.without.load(Ordering::Relaxed))
    }

    /// The distinct questions of a batch, and for each row the indices of its samples.
    fn jobs(&self, batch: &[Exchange<'_>]) -> (Vec<Job>, Vec<Result<Vec<usize>, String>>) {
        let mut jobs: Vec<Job> = Vec::new();
        let mut known: HashMap<Key, usize> = HashMap::new();
        let mut of_row = |exchange: &Exchange<'_>| {
            let question = self.rubric.ask(exchange).map_err(|unread| unread.to_string())?;
            let job = |sample| {
                let body = self.api.body(&self.ask_for(&question, sample, Without::default()));
                let key = cache::key(&self.api.url, &body, sample);
                *known.entry(key).or_insert_with(|| {
                    jobs.push(Job { question: question.clone(), sample, key });
                    jobs.len() - 1
                })
            };
            Ok((0..self.samples).map(job).collect())
        };
        let rows = batch.iter().map(&mut of_row).collect();
        (jobs, rows)
    }
}

/// A question in progress.
struct Asked<'a> {
    judge: &'a LlmJudge,
    job: &'a Job,
    /// The optional parts that its last message omitted.
    without: Without,
    reasks: u32,
}

impl Asked<'_> {
    fn ask(&self) -> Ask<'_> {
        self.judge.ask_for(&self.job.question, self.job.sample, self.without)
    }

    fn estimate(&self) -> Tokens {
        let length = self.job.question.system.len() + self.job.question.user.len();
        // Three bytes per token overestimates the count for most texts.
        let output = u64::from(self.ask().max_tokens());
        Tokens { input: length as u64 / 3 + 16, output }
    }
}

impl Asking for Asked<'_> {
    type Answer = (Reading, Answer);
    type Error = ProviderError;

    const WHO: &'static str = WHO;
    const WHAT: &'static str = "answer";

    fn url(&self) -> &str {
        &self.judge.api.url
    }

    fn message(&mut self) -> Message {
        self.without = self.judge.without();
        let body = self.judge.api.body(&self.ask()).to_string().into_bytes();
        Message { headers: self.judge.api.headers(&body), body, estimate: self.estimate() }
    }

    fn read(&mut self, body: &[u8]) -> Result<Read<Self::Answer>, ProviderError> {
        let parsed = serde_json::from_slice(body).ok();
        let Some((answer, used)) = parsed.and_then(|reply| self.judge.api.answer(&reply)) else {
            let api = &self.judge.api;
            return Ok(Read::Foreign(format!(
                "200: the reply of {} is not one of {}, check `base_url`: {}",
                api.url,
                api.dialect.name(),
                api.redact(&excerpt(&String::from_utf8_lossy(body)))
            )));
        };
        let used = counted(used, &answer, self.estimate());
        Ok(match self.judge.rubric.read(&answer) {
            Ok(reading) => Read::Done(Ok((reading, answer)), used),
            Err(unread) if self.reasks >= self.judge.reasks => {
                Read::Done(Err(self.judge.told(&unread, &answer)), used)
            }
            Err(_) => {
                self.reasks += 1;
                Read::Again(used)
            }
        })
    }

    fn sent(&self) -> Vec<Optional> {
        let SamplingConfig { temperature, top_p, top_k, seed, .. } = &self.judge.sampling;
        let sent = [
            (Optional::Temperature, temperature.is_some()),
            (Optional::TopP, top_p.is_some()),
            (Optional::TopK, top_k.is_some()),
            (Optional::Seed, seed.is_some()),
            (Optional::Schema, self.judge.rubric.form() == AnswerForm::Json),
            (Optional::MaxTokensName, true),
        ];
        let still =
            |(optional, there): &(Optional, bool)| *there && self.without.0 & *optional as u8 == 0;
        sent.into_iter().filter(still).map(|(optional, _)| optional).collect()
    }

    fn leave_out(&mut self, optional: Optional) {
        self.judge.without.fetch_or(optional as u8, Ordering::Relaxed);
    }

    fn redact(&self, text: &str) -> String {
        self.judge.api.redact(text)
    }

    fn fatal(&self, fatal: Fatal, complaint: Complaint) -> ProviderError {
        let Complaint { status, message, .. } = complaint;
        let Api { dialect, key_from, model, url, .. } = &self.judge.api;
        let api = dialect.name().to_owned();
        let (key, model, url) = (key_from.clone(), model.clone(), url.clone());
        match fatal {
            Fatal::Unauthorised => ProviderError::Unauthorised { api, key, status, message },
            Fatal::Forbidden => ProviderError::Forbidden { api, key, model, status, message },
            Fatal::NoSuchPath => ProviderError::NoSuchPath { api, url, status, message },
            Fatal::UnknownModel => ProviderError::UnknownModel { api, url, model, status, message },
            Fatal::SpendLimit => ProviderError::SpendLimit { api, status, message },
            Fatal::Unexpected => ProviderError::Refused { api, url, status, message },
        }
    }
}

/// The server's count, or an estimate if it gives none: every request must count against the
/// budget.
fn counted(used: Tokens, answer: &Answer, estimate: Tokens) -> Tokens {
    if used != Tokens::default() {
        return used;
    }
    Tokens { input: estimate.input, output: 1 + answer.text.len() as u64 / 3 }
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
