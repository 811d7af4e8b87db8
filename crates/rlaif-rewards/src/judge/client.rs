//! Questions to a language model behind an API, and its answers: the one loop of judges and labellers.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use rlaif_http::{EnvVars, Stop};

use super::api::{Api, Ask};
use super::cache::{self, Cache, Key};
use super::config::LlmApi;
use super::exchange::{Answered, Asking, Message, NoAnswer, Read, Service, stopped};
use super::keys::{SamplingConfig, ServiceKeys};
use super::optional::{Optional, Without};
use super::refusal::{Complaint, Fatal, excerpt};
use super::spending::{Ledger, Tokens, Usage};
use crate::ProviderError;
use crate::rubric::{Answer, AnswerShape, NoVerdict, Question};
use crate::sync::lock;

/// The party that was stopped, in reasons.
pub(super) const WHO: &str = "judge";

/// A question, and the shape of the answer that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LlmAsk {
    pub(crate) question: Question,
    pub(crate) shape: AnswerShape,
    /// Number of the sample: equal questions of different samples are asked each.
    pub(crate) sample: u32,
}

/// Content of an answer, and its cost.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told<T> {
    pub(crate) value: T,
    /// The cost, where prices are configured; 0 for an answer of the cache.
    pub(crate) cost: Option<f64>,
}

/// The reason why a question has no answer, and the cost of the answers that gave none.
#[derive(Debug, Clone, PartialEq)]
pub struct Unanswered {
    /// The reason.
    pub reason: String,
    /// The cost, where prices are configured: answers without a verdict are billed as well.
    pub cost: Option<f64>,
}

impl From<String> for Unanswered {
    /// A question that nothing was billed for.
    fn from(reason: String) -> Self {
        Self { reason, cost: None }
    }
}

/// Reads an answer.
pub(crate) type ReadAnswer<'a, T> = dyn Fn(&Answer) -> Result<T, NoVerdict> + Sync + 'a;

/// Takes what is known of a question, by its place.
pub(crate) type TellAnswer<'a, T> =
    dyn FnMut(usize, Result<Told<T>, Unanswered>) -> ControlFlow<()> + 'a;

/// A language model behind an API.
#[derive(Debug)]
pub(crate) struct LlmClient {
    reasks: u32,
    sampling: SamplingConfig,
    api: Api,
    service: Service,
    cache: Option<Cache>,
    /// The optional things that this model turned out not to take; see [`Without`].
    without: AtomicU8,
}

/// One question to be asked.
struct Job<'a> {
    ask: &'a LlmAsk,
    key: Key,
    /// The places of the asks that are this question.
    places: Vec<usize>,
}

impl LlmClient {
    /// The model of a checked configuration whose `api` was resolved, with API keys from `environment`.
    /// `log_probs` says that answers need them.
    pub(super) fn of(
        keys: &ServiceKeys<'_>,
        api: &LlmApi,
        log_probs: bool,
        environment: EnvVars<'_>,
    ) -> Result<Self, ProviderError> {
        let api = Api::new(api, log_probs, keys.sampling, environment)?;
        let ledger = Ledger::new(keys.price, keys.budget);
        Ok(Self {
            reasks: keys.reasks.unwrap_or(1),
            sampling: keys.sampling.clone(),
            service: Service::new(&api.host, keys.limits, ledger),
            api,
            cache: keys.cache.as_deref().map(Cache::open).transpose()?,
            without: AtomicU8::new(0),
        })
    }

    /// The name of the model.
    pub(crate) fn model(&self) -> &str {
        &self.api.model
    }

    /// Usage so far.
    pub(crate) fn usage(&self) -> Usage {
        self.service.ledger.usage()
    }

    /// Tells what the answers to these questions say as they come; an error stops those that are still
    /// to come. Equal questions are asked once. What was not asked is not told.
    pub(crate) fn ask_each<T: Clone + PartialEq + Send>(
        &self,
        asks: &[LlmAsk],
        read: &ReadAnswer<'_, T>,
        tell: &mut TellAnswer<'_, T>,
    ) -> Result<(), ProviderError> {
        let jobs = self.jobs(asks);
        let keys: Vec<Key> = jobs.iter().map(|job| job.key).collect();
        let known = match &self.cache {
            Some(cache) => cache.get(&keys)?,
            None => vec![None; jobs.len()],
        };
        let mut tell_all = |job: usize, told: Result<Told<T>, Unanswered>| {
            jobs[job].places.iter().enumerate().try_for_each(|(nth, &place)| {
                let mut told = told.clone();
                let cost = match &mut told {
                    Ok(told) => &mut told.cost,
                    Err(unanswered) => &mut unanswered.cost,
                };
                // Equal questions are paid for once.
                *cost = cost.map(|cost| if nth == 0 { cost } else { 0. });
                tell(place, told)
            })
        };
        let free = self.service.ledger.cost_of(Tokens::default());
        let mut open = Vec::new();
        for (job, answer) in known.into_iter().enumerate() {
            let Some(value) = answer.and_then(|answer| read(&answer).ok()) else {
                open.push(job);
                continue;
            };
            if tell_all(job, Ok(Told { value, cost: free })).is_break() {
                return Ok(());
            }
        }
        self.service.ledger.count(|usage| usage.cached += (jobs.len() - open.len()) as u64);

        let stop = Stop::default();
        let failure = Mutex::new(None);
        let ask = |at: usize| {
            self.ask(&jobs[open[at]], read, &stop).map_err(|error| {
                lock(&failure).get_or_insert(error);
                stop.stop();
            })
        };
        self.service.each(open.len(), &stop, ask, |at, told| match told {
            Ok(Some(told)) => tell_all(open[at], told),
            Ok(None) | Err(()) => ControlFlow::Continue(()),
        });
        lock(&failure).take().map_or(Ok(()), Err)
    }

    /// The answer to a question, or why there is none; `None` if a stop came before anything was paid for.
    fn ask<T: PartialEq>(
        &self,
        job: &Job<'_>,
        read: &ReadAnswer<'_, T>,
        stop: &Stop,
    ) -> Result<Option<Result<Told<T>, Unanswered>>, ProviderError> {
        let without = self.without();
        let asked = Asked { client: self, ask: job.ask, read, without, reasks: 0 };
        let Answered { end, spent } = self.service.ask(asked, stop)?;
        let cost = self.service.ledger.cost_of(spent);
        Ok(Some(match end {
            Ok((value, answer)) => {
                if let Some(cache) = &self.cache
                    && let Some(answer) = self.keepable(answer, read, &value)
                {
                    cache.put(&job.key, &answer)?;
                }
                Ok(Told { value, cost })
            }
            Err(NoAnswer::Reason(reason)) => Err(Unanswered { reason, cost }),
            Err(NoAnswer::Stopped) if matches!(cost, None | Some(0.)) => return Ok(None),
            Err(NoAnswer::Stopped) => Err(Unanswered { reason: stopped(WHO), cost }),
        }))
    }

    /// An answer as the cache may have it: a server that repeats a key gets it into no file.
    fn keepable<T: PartialEq>(
        &self,
        answer: Answer,
        read: &ReadAnswer<'_, T>,
        value: &T,
    ) -> Option<Answer> {
        if !self.api.reveals(&answer.text) {
            return Some(answer);
        }
        let cleared = Answer { text: self.api.redact(&answer.text), ..answer };
        let same =
            cleared.tokens.is_empty() && read(&cleared).is_ok_and(|cleared| cleared == *value);
        same.then_some(cleared)
    }

    /// The reason why an answer has no verdict, without secrets that the server may have repeated in it.
    fn told(&self, unread: &NoVerdict, answer: &Answer) -> String {
        if self.api.reveals(&answer.text) {
            return "the judge's answer gives no verdict and has the key in it: [redacted]"
                .to_owned();
        }
        unread.to_string()
    }

    fn without(&self) -> Without {
        Without(self.without.load(Ordering::Relaxed))
    }

    fn message<'a>(&'a self, ask: &'a LlmAsk, without: Without) -> Ask<'a> {
        let LlmAsk { question, shape, sample } = ask;
        Ask { question, shape: *shape, sampling: &self.sampling, sample: *sample, without }
    }

    /// The questions, equal ones once.
    fn jobs<'a>(&self, asks: &'a [LlmAsk]) -> Vec<Job<'a>> {
        let mut jobs: Vec<Job<'_>> = Vec::new();
        let mut known: HashMap<Key, usize> = HashMap::new();
        for (place, ask) in asks.iter().enumerate() {
            let body = self.api.body(&self.message(ask, Without::default()));
            let key = cache::key(&self.api.url, &body, ask.sample);
            let job = *known.entry(key).or_insert_with(|| {
                jobs.push(Job { ask, key, places: Vec::new() });
                jobs.len() - 1
            });
            jobs[job].places.push(place);
        }
        jobs
    }
}

/// A question that is being asked.
struct Asked<'a, T> {
    client: &'a LlmClient,
    ask: &'a LlmAsk,
    read: &'a ReadAnswer<'a, T>,
    /// The optional things that its last message had not.
    without: Without,
    reasks: u32,
}

impl<T> Asked<'_, T> {
    fn ask(&self) -> Ask<'_> {
        self.client.message(self.ask, self.without)
    }

    fn estimate(&self) -> Tokens {
        let length = self.ask.question.system.len() + self.ask.question.user.len();
        // Three bytes to a token is more tokens than most texts have.
        let output = u64::from(self.ask().max_tokens());
        Tokens { input: length as u64 / 3 + 16, output }
    }
}

impl<T> Asking for Asked<'_, T> {
    type Answer = (T, Answer);
    type Error = ProviderError;

    const WHAT: &'static str = "answer";

    fn url(&self) -> &str {
        &self.client.api.url
    }

    fn message(&mut self) -> Message {
        self.without = self.client.without();
        let body = self.client.api.body(&self.ask()).to_string().into_bytes();
        Message { headers: self.client.api.headers(&body), body, estimate: self.estimate() }
    }

    fn read(&mut self, body: &[u8]) -> Result<Read<Self::Answer>, ProviderError> {
        let api = &self.client.api;
        let parsed = serde_json::from_slice(body).ok();
        let Some((answer, used)) = parsed.and_then(|reply| api.answer(&reply)) else {
            return Ok(Read::Foreign(format!(
                "200: the reply of {} is not one of {}, check `base_url`: {}",
                api.url,
                api.dialect.name(),
                api.redact(&excerpt(&String::from_utf8_lossy(body)))
            )));
        };
        let used = counted(used, &answer, self.estimate());
        Ok(match (self.read)(&answer) {
            Ok(value) => Read::Done(Ok((value, answer)), used),
            Err(unread) if self.reasks >= self.client.reasks => {
                Read::Done(Err(self.client.told(&unread, &answer)), used)
            }
            Err(_) => {
                self.reasks += 1;
                Read::Again(used)
            }
        })
    }

    fn sent(&self) -> Vec<Optional> {
        let SamplingConfig { temperature, top_p, top_k, seed, .. } = &self.client.sampling;
        let sent = [
            (Optional::Temperature, temperature.is_some()),
            (Optional::TopP, top_p.is_some()),
            (Optional::TopK, top_k.is_some()),
            (Optional::Seed, seed.is_some()),
            (Optional::Schema, self.ask.shape.schema),
            (Optional::MaxTokensName, true),
        ];
        let still =
            |(optional, there): &(Optional, bool)| *there && self.without.0 & *optional as u8 == 0;
        sent.into_iter().filter(still).map(|(optional, _)| optional).collect()
    }

    fn leave_out(&mut self, optional: Optional) {
        self.client.without.fetch_or(optional as u8, Ordering::Relaxed);
    }

    fn redact(&self, text: &str) -> String {
        self.client.api.redact(text)
    }

    fn fatal(&self, fatal: Fatal, complaint: Complaint) -> ProviderError {
        let Complaint { status, message, .. } = complaint;
        let Api { dialect, key_from, model, url, .. } = &self.client.api;
        let api = dialect.name().to_owned();
        let (key, model, url) = (key_from.clone(), model.clone(), url.clone());
        let there = format!("{api} at {url}");
        match fatal {
            Fatal::Unauthorised => ProviderError::Unauthorised { api: there, key, status, message },
            Fatal::Forbidden => {
                ProviderError::Forbidden { api: there, key, model, status, message }
            }
            Fatal::NoSuchPath => ProviderError::NoSuchPath { api, url, status, message },
            Fatal::UnknownModel => ProviderError::UnknownModel { api, url, model, status, message },
            Fatal::SpendLimit => ProviderError::SpendLimit { api: there, status, message },
            Fatal::Unexpected => ProviderError::Refused { api, url, status, message },
        }
    }
}

/// The server's count, or an estimate where it gives none: a budget must not be blind.
fn counted(used: Tokens, answer: &Answer, estimate: Tokens) -> Tokens {
    if used != Tokens::default() {
        return used;
    }
    Tokens { input: estimate.input, output: 1 + answer.text.len() as u64 / 3 }
}
