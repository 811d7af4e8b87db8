//! A language model behind an API as a reward model.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use rlaif_core::{Exchange, RewardError, RewardModel, Scores};

use super::api::{Api, Ask, Optional, Without};
use super::cache::{self, Cache, Key};
use super::client::{Client, Patience, Refusals};
use super::config::{JudgeConfig, SamplingConfig};
use super::pace::{Stop, lock};
use super::refusal::{Complaint, Fatal, Refusal, Whom};
use super::secret::{Environment, process_environment};
use super::spending::{Ledger, Settled, Tokens, Usage};
use crate::ProviderError;
use crate::rubric::{self, Answer, AnswerForm, Question, Rubric, Verdict};

/// A judge: a rubric, and a language model behind an API that is asked by it.
///
/// Each row is asked for as often as `samples` says, and the mean of the verdicts is its score; a
/// row without any verdict has none, and the reason. Equal rows are asked about once. What stops
/// every row (a wrong key, an unknown model, an exhausted account) is an error of the batch; the
/// answers until then are in the cache. Parts: `coverage` for expectations; `samples` and
/// `spread`, the sample standard deviation, where there are several samples.
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
    client: Client,
    ledger: Ledger,
    cache: Option<Cache>,
    refusals: Refusals,
    /// What this model turned out not to take; see [`Without`].
    without: AtomicU8,
}

/// One question to be asked.
struct Job {
    question: Question,
    sample: u32,
    key: Key,
}

impl LlmJudge {
    /// The judge of a configuration, with the keys of the environment.
    ///
    /// # Errors
    /// [`ProviderError`] when a setting does not fit the API, a key is missing, or the cache
    /// cannot be opened.
    pub fn new(config: &JudgeConfig) -> Result<Self, ProviderError> {
        Self::with_environment(config, &process_environment)
    }

    /// The judge of a configuration, with keys from elsewhere.
    ///
    /// # Errors
    /// As [`LlmJudge::new`].
    pub fn with_environment(
        config: &JudgeConfig,
        environment: Environment<'_>,
    ) -> Result<Self, ProviderError> {
        config.check()?;
        let rubric = config.rubric()?;
        let api = Api::new(&config.api, rubric.form(), &config.sampling, environment)?;
        let Some(api) = api else {
            return Err(ProviderError::Setting {
                setting: "api.kind",
                expected: "a language model behind an API; `RewardConfig` builds all kinds"
                    .to_owned(),
                found: "`reward-server` or `policy`".to_owned(),
            });
        };
        Ok(Self {
            name: config.name.clone(),
            rubric,
            samples: config.samples.unwrap_or(1),
            reasks: config.reasks.unwrap_or(1),
            sampling: config.sampling.clone(),
            api,
            client: Client::new(&config.limits),
            ledger: Ledger::new(config.price, config.budget),
            cache: config.cache.as_deref().map(Cache::open).transpose()?,
            refusals: Refusals::default(),
            without: AtomicU8::new(0),
        })
    }

    /// What it used so far.
    pub fn usage(&self) -> Usage {
        self.ledger.usage()
    }

    fn ask_for<'a>(&'a self, question: &'a Question, sample: u32, without: Without) -> Ask<'a> {
        Ask { question, form: self.rubric.form(), sampling: &self.sampling, sample, without }
    }

    /// The verdicts on these questions; an error stops those that are still to come.
    fn verdicts(&self, jobs: &[Job]) -> Result<Vec<Verdict>, ProviderError> {
        let keys: Vec<Key> = jobs.iter().map(|job| job.key).collect();
        let known = match &self.cache {
            Some(cache) => cache.get(&keys)?,
            None => vec![None; jobs.len()],
        };
        let read = |answer: Option<Answer>| self.rubric.read(&answer?).ok();
        let mut verdicts: Vec<Option<Verdict>> =
            known.into_iter().map(|answer| read(answer).map(Ok)).collect();
        let open: Vec<usize> = (0..jobs.len()).filter(|&job| verdicts[job].is_none()).collect();
        self.ledger.count(|usage| usage.cached += (jobs.len() - open.len()) as u64);

        let stop = Stop::default();
        let failure = Mutex::new(None);
        let answers = self.client.each(open.len(), &stop, |at| {
            self.ask(&jobs[open[at]], &stop).map_err(|error| {
                lock(&failure).get_or_insert(error);
                stop.stop();
            })
        });
        if let Some(error) = lock(&failure).take() {
            return Err(error);
        }
        for (at, answer) in open.into_iter().zip(answers) {
            verdicts[at] = answer.and_then(Result::ok);
        }
        let stopped = || Err("the judge was stopped".to_owned());
        Ok(verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(stopped)).collect())
    }

    fn ask(&self, job: &Job, stop: &Stop) -> Result<Verdict, ProviderError> {
        let mut patience = Patience::default();
        let (mut reasks, mut failed_once) = (0, false);
        loop {
            let without = Without(self.without.load(Ordering::Relaxed));
            let ask = self.ask_for(&job.question, job.sample, without);
            let length = job.question.system.len() + job.question.user.len();
            // Three bytes to a token is more tokens than most texts have.
            let estimate =
                Tokens { input: length as u64 / 3 + 16, output: u64::from(ask.max_tokens()) };
            if let Err(broken) = self.ledger.reserve(estimate) {
                return Ok(Err(broken));
            }
            self.client.pace.wait(estimate.input + estimate.output, stop);
            if stop.stopped() {
                self.ledger.settle(estimate, Settled::Nothing);
                return Ok(Err("the judge was stopped".to_owned()));
            }
            let body = self.api.body(&ask).to_string().into_bytes();
            let reply = self.client.post(&self.api.url, &self.api.headers(&body), &body);
            let (why, asked, whom) = match reply {
                Err(lost) => {
                    self.settle(estimate, Settled::Lost);
                    (self.api.redact(&lost.why), None, Whom::This)
                }
                Ok(reply) if (200..300).contains(&reply.status) => {
                    let parsed = serde_json::from_slice(&reply.body).ok();
                    if let Some((answer, used)) = parsed.and_then(|r| self.api.answer(&r)) {
                        self.refusals.answered();
                        self.settle(estimate, Settled::Used(counted(used, &answer, estimate)));
                        match self.rubric.read(&answer) {
                            Ok(reading) => {
                                if let Some(cache) = &self.cache {
                                    cache.put(&job.key, &answer)?;
                                }
                                return Ok(Ok(reading));
                            }
                            Err(unread) if reasks >= self.reasks => {
                                return Ok(Err(unread.to_string()));
                            }
                            Err(_) => {
                                reasks += 1;
                                self.ledger.count(|usage| usage.reasks += 1);
                                continue;
                            }
                        }
                    }
                    self.settle(estimate, Settled::Lost);
                    ("the reply is none of this API".to_owned(), None, Whom::This)
                }
                Ok(reply) => {
                    self.settle(estimate, Settled::Nothing);
                    let mut complaint = Complaint::of(&reply);
                    complaint.message = self.api.redact(&complaint.message);
                    let why = format!("{}: {}", complaint.status, complaint.message);
                    match complaint.refusal(&self.sent(without)) {
                        Refusal::Passing { wait, all } => (why, wait, all),
                        Refusal::PassingOnce if failed_once => return Ok(Err(why)),
                        Refusal::PassingOnce => {
                            failed_once = true;
                            (why, None, Whom::This)
                        }
                        Refusal::Without(optional) => {
                            self.without.fetch_or(optional as u8, Ordering::Relaxed);
                            continue;
                        }
                        Refusal::Row if self.refusals.refused() => {
                            return Err(self.fatal(Fatal::Unexpected, complaint));
                        }
                        Refusal::Row => return Ok(Err(why)),
                        Refusal::Fatal(fatal) => return Err(self.fatal(fatal, complaint)),
                    }
                }
            };
            if let Err(end) = self.client.wait(&mut patience, asked, whom, stop) {
                return Ok(Err(format!("no answer {end}: {why}")));
            }
            self.ledger.count(|usage| usage.retries += 1);
        }
    }

    fn settle(&self, estimate: Tokens, how: Settled) {
        self.ledger.settle(estimate, how);
        let actual = match how {
            Settled::Used(tokens) => tokens.input + tokens.output,
            Settled::Nothing => 0,
            Settled::Lost => return,
        };
        self.client.pace.settle(estimate.input + estimate.output, actual);
    }

    /// The optional things of the requests as they are now.
    fn sent(&self, without: Without) -> Vec<Optional> {
        let SamplingConfig { temperature, top_p, top_k, seed, .. } = &self.sampling;
        let sent = [
            (Optional::Temperature, temperature.is_some()),
            (Optional::TopP, top_p.is_some()),
            (Optional::TopK, top_k.is_some()),
            (Optional::Seed, seed.is_some()),
            (Optional::Schema, self.rubric.form() == AnswerForm::Json),
            (Optional::MaxTokensName, true),
        ];
        let still =
            |(optional, there): &(Optional, bool)| *there && without.0 & *optional as u8 == 0;
        sent.into_iter().filter(still).map(|(optional, _)| optional).collect()
    }

    fn fatal(&self, fatal: Fatal, complaint: Complaint) -> ProviderError {
        let Complaint { status, message, .. } = complaint;
        let api = self.api.dialect.name().to_owned();
        let (key, model, url) =
            (self.api.key_from.clone(), self.api.model.clone(), self.api.url.clone());
        match fatal {
            Fatal::Unauthorised => ProviderError::Unauthorised { api, key, status, message },
            Fatal::Forbidden => ProviderError::Forbidden { api, key, model, status, message },
            Fatal::UnknownModel => ProviderError::UnknownModel { api, url, model, status, message },
            Fatal::SpendLimit => ProviderError::SpendLimit { api, status, message },
            Fatal::Unexpected => ProviderError::Refused { api, url, status, message },
        }
    }

    /// The questions of a batch, equal ones once, and for each row where its samples are.
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

/// The server's count, or an estimate where it gives none: a budget must not be blind.
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
        let (jobs, rows) = self.jobs(batch);
        let verdicts = self.verdicts(&jobs).map_err(|source| RewardError::Failed {
            model: self.name.clone(),
            source: Box::new(source),
        })?;
        let rows = rows
            .into_iter()
            .map(|of_row| Ok(of_row?.into_iter().map(|job| verdicts[job].clone()).collect()));
        Ok(rubric::scores(rows, self.rubric.form(), self.samples))
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
