//! A reward server of OpenRLHF's `/get_reward` shape.

use std::sync::Mutex;

use rlaif_core::{Exchange, NonFinite, RewardError, RewardModel, Score, Scores};
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, Patience, Refusals};
use super::config::{ApiConfig, JudgeConfig};
use super::http::{Address, Headers};
use super::pace::{Stop, lock};
use super::refusal::{Complaint, Fatal, Refusal, Whom};
use super::secret::{Environment, Secret, process_environment};
use super::spending::{Ledger, Settled, Tokens, Usage};
use crate::ProviderError;

/// A reward server: `POST {"query": [..], "prompts": [..], "labels": [..]}` gives
/// `{"rewards": [..]}`.
///
/// `query` has prompt and response in one, `prompts` the prompts, `labels` the references, null
/// where there is none; OpenRLHF's servers take this shape. A reward of null is no verdict. A list
/// of `extra_logs` with one number per row becomes a part. Requests that fail for good leave their
/// rows without a verdict; a wrong number of rewards is an error.
#[derive(Debug)]
pub struct RemoteReward {
    name: String,
    url: String,
    token: Option<(Secret, String)>,
    batch_size: usize,
    client: Client,
    ledger: Ledger,
    refusals: Refusals,
}

#[derive(Deserialize)]
struct Reply {
    rewards: Vec<Option<f64>>,
    #[serde(default)]
    extra_logs: serde_json::Map<String, serde_json::Value>,
}

impl RemoteReward {
    /// The reward server of a configuration, with the token of the environment.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for another kind of API, or settings that only judges have;
    /// [`ProviderError::Key`].
    pub fn new(config: &JudgeConfig) -> Result<Self, ProviderError> {
        Self::with_environment(config, &process_environment)
    }

    /// The reward server of a configuration, with the token from elsewhere.
    ///
    /// # Errors
    /// As [`RemoteReward::new`].
    pub fn with_environment(
        config: &JudgeConfig,
        environment: Environment<'_>,
    ) -> Result<Self, ProviderError> {
        config.check()?;
        let ApiConfig::RewardServer { url, api_key_env, batch_size } = &config.api else {
            return Err(ProviderError::Setting {
                setting: "api.kind",
                expected: "`reward-server`".to_owned(),
                found: "another one, which is an `LlmJudge`".to_owned(),
            });
        };
        let strangers = config.judge_only();
        if !strangers.is_empty() {
            return Err(ProviderError::Setting {
                setting: "api.kind",
                expected: "that of a language model, where those keys mean something".to_owned(),
                found: format!("`reward-server` with {}", strangers.join(", ")),
            });
        }
        let batch_size = batch_size.unwrap_or(16);
        if batch_size == 0 {
            return Err(ProviderError::Setting {
                setting: "api.batch_size",
                expected: "at least 1".to_owned(),
                found: "0".to_owned(),
            });
        }
        let token = |variable: &String| {
            Ok::<_, ProviderError>((
                Secret::from_environment(variable, environment)?,
                variable.clone(),
            ))
        };
        Ok(Self {
            name: config.name.clone(),
            url: Address::parse("api.url", url)?.join(""),
            token: api_key_env.as_ref().map(token).transpose()?,
            batch_size,
            client: Client::new(&config.limits),
            ledger: Ledger::new(None, None),
            refusals: Refusals::default(),
        })
    }

    /// What it used so far; a reward server counts no tokens.
    pub fn usage(&self) -> Usage {
        self.ledger.usage()
    }

    fn redact(&self, text: &str) -> String {
        self.token.as_ref().map_or(text.to_owned(), |(token, _)| token.redact(text))
    }

    /// The rewards of some rows, or the reason why there are none; `first` is the place of the
    /// first of them in the batch.
    fn ask(
        &self,
        rows: &[Exchange<'_>],
        first: usize,
        stop: &Stop,
    ) -> Result<Result<Reply, String>, RewardError> {
        let query: Vec<String> =
            rows.iter().map(|x| format!("{}{}", x.prompt, x.response)).collect();
        let prompts: Vec<&str> = rows.iter().map(|x| x.prompt).collect();
        let labels: Vec<Option<&str>> = rows.iter().map(|x| x.reference).collect();
        let body = json!({"query": query, "prompts": prompts, "labels": labels});
        let body = body.to_string().into_bytes();
        let token = self.token.as_ref().map(|(t, _)| format!("Bearer {}", t.expose()));
        let headers: Headers = token.map(|token| ("authorization", token)).into_iter().collect();
        let mut patience = Patience::default();
        let mut failed_once = false;
        loop {
            self.client.pace.wait(0, stop);
            if stop.stopped() {
                return Ok(Err("the reward server was stopped".to_owned()));
            }
            // A ledger without a budget never refuses.
            let _ = self.ledger.reserve(Tokens::default());
            let reply = self.client.post(&self.url, &headers, &body);
            self.ledger.settle(Tokens::default(), Settled::Nothing);
            let (why, asked, whom) = match reply {
                Err(lost) => (self.redact(&lost.why), None, Whom::This),
                Ok(reply) if (200..300).contains(&reply.status) => {
                    match serde_json::from_slice::<Reply>(&reply.body) {
                        Ok(reply) if reply.rewards.len() == rows.len() => {
                            self.refusals.answered();
                            return Ok(Ok(reply));
                        }
                        Ok(reply) => {
                            return Err(RewardError::Count {
                                model: self.name.clone(),
                                column: "rewards".to_owned(),
                                expected: rows.len(),
                                found: reply.rewards.len(),
                            });
                        }
                        Err(error) => {
                            if let Some((row, value)) = no_number(&reply.body) {
                                let (model, row) = (self.name.clone(), first + row);
                                let source = NonFinite(value);
                                return Err(RewardError::NonFinite { model, row, source });
                            }
                            let why =
                                format!("the reply is no {{\"rewards\": [numbers]}}: {error}");
                            (self.redact(&why), None, Whom::This)
                        }
                    }
                }
                Ok(reply) => {
                    let mut complaint = Complaint::of(&reply);
                    complaint.message = self.redact(&complaint.message);
                    let why = format!("{}: {}", complaint.status, complaint.message);
                    match complaint.refusal(&[]) {
                        Refusal::Passing { wait, all } => (why, wait, all),
                        Refusal::PassingOnce if failed_once => return Ok(Err(why)),
                        Refusal::PassingOnce => {
                            failed_once = true;
                            (why, None, Whom::This)
                        }
                        Refusal::Row if self.refusals.refused() => {
                            return Err(self.fatal(Fatal::Unexpected, complaint));
                        }
                        Refusal::Row | Refusal::Without(_) => return Ok(Err(why)),
                        Refusal::Fatal(fatal) => return Err(self.fatal(fatal, complaint)),
                    }
                }
            };
            if let Err(end) = self.client.wait(&mut patience, asked, whom, stop) {
                return Ok(Err(format!("no rewards {end}: {why}")));
            }
            self.ledger.count(|usage| usage.retries += 1);
        }
    }

    /// The verdicts of one reply, on these rows of the batch.
    fn scores(&self, reply: &Reply, rows: &[usize]) -> Result<Scores, RewardError> {
        let mut scores = Scores::default();
        for (at, (reward, &row)) in reply.rewards.iter().zip(rows).enumerate() {
            let score = reward.map(|value| {
                Score::new(value as f32).map_err(|source| RewardError::NonFinite {
                    model: self.name.clone(),
                    row,
                    source,
                })
            });
            if score.is_none() {
                scores.reasons.push((at, "the reward server gave null".to_owned()));
            }
            scores.total.push(score.transpose()?);
        }
        for (name, column) in &reply.extra_logs {
            let numbers = column.as_array().filter(|column| column.len() == rows.len());
            let number = |n: &serde_json::Value| Score::new(n.as_f64()? as f32).ok();
            let part = numbers.map(|numbers| numbers.iter().map(number).collect());
            scores.parts.extend(part.map(|part| (name.clone(), part)));
        }
        Ok(scores)
    }

    fn fatal(&self, fatal: Fatal, complaint: Complaint) -> RewardError {
        let Complaint { status, message, .. } = complaint;
        let api = "the reward server".to_owned();
        let source = match fatal {
            Fatal::Unauthorised | Fatal::Forbidden => {
                let key = self.token.as_ref().map(|(_, variable)| format!("`{variable}`"));
                let key = key.unwrap_or_else(|| "`api_key_env`, which is not set".to_owned());
                ProviderError::Unauthorised { api, key, status, message }
            }
            Fatal::SpendLimit => ProviderError::SpendLimit { api, status, message },
            Fatal::UnknownModel | Fatal::Unexpected => {
                ProviderError::Refused { api, url: self.url.clone(), status, message }
            }
        };
        RewardError::Failed { model: self.name.clone(), source: Box::new(source) }
    }
}

/// The first reward that is written as Python writes what is no number, though JSON has no word for
/// it, and its place.
fn no_number(body: &[u8]) -> Option<(usize, f32)> {
    let text = std::str::from_utf8(body).ok()?;
    let list = text.split_once("\"rewards\"")?.1.split_once('[')?.1.split(']').next()?;
    list.split(',').enumerate().find_map(|(row, reward)| match reward.trim() {
        "NaN" => Some((row, f32::NAN)),
        "Infinity" => Some((row, f32::INFINITY)),
        "-Infinity" => Some((row, f32::NEG_INFINITY)),
        _ => None,
    })
}

impl RewardModel for RemoteReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let chunks: Vec<&[Exchange<'_>]> = batch.chunks(self.batch_size).collect();
        let stop = Stop::default();
        let failure = Mutex::new(None);
        let replies = self.client.each(chunks.len(), &stop, |at| {
            self.ask(chunks[at], at * self.batch_size, &stop).unwrap_or_else(|error| {
                lock(&failure).get_or_insert(error);
                stop.stop();
                Err("the reward server was stopped".to_owned())
            })
        });
        if let Some(error) = lock(&failure).take() {
            return Err(error);
        }
        let mut scores = Scores::new(vec![None; batch.len()]);
        for (at, (chunk, reply)) in chunks.iter().zip(replies).enumerate() {
            let rows: Vec<usize> = (at * self.batch_size..).take(chunk.len()).collect();
            let reply = reply.unwrap_or_else(|| Err("the reward server was stopped".to_owned()));
            let of_chunk = match reply {
                Ok(reply) => self.scores(&reply, &rows)?,
                Err(reason) => Scores {
                    reasons: (0..rows.len()).map(|row| (row, reason.clone())).collect(),
                    ..Scores::new(vec![None; rows.len()])
                },
            };
            scores.fill_from(of_chunk, &rows);
        }
        Ok(scores)
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        let usage = self.usage();
        let metrics = [("requests", usage.requests), ("retries", usage.retries)];
        metrics.map(|(key, value)| (format!("{}/{key}", self.name), value as f64)).into()
    }
}
