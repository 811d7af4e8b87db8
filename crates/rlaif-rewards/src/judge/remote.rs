//! A reward server with OpenRLHF's `/get_reward` interface.

use std::ops::ControlFlow;
use std::sync::Mutex;

use rlaif_core::{BadSetting, Exchange, NonFinite, RewardError, RewardModel, Score, Scores, Tell};
use rlaif_http::{EnvVars, Secret, Stop, process_environment};
use serde::Deserialize;
use serde_json::json;

use super::api::address;
use super::config::{JudgeConfig, RewardServerApi};
use super::exchange::{Asking, Message, NoAnswer, Read, Service, stopped};
use super::optional::Optional;
use super::refusal::{Complaint, Fatal, excerpt};
use super::spending::{Ledger, Tokens, Usage};
use crate::ProviderError;
use crate::sync::lock;

/// The name of the service, in reasons.
const WHO: &str = "reward server";

/// A reward server: it answers `POST {"query": [..], "prompts": [..], "labels": [..]}` with
/// `{"rewards": [..]}`.
///
/// `query` holds prompt and response as one text, `prompts` the prompts, and `labels` the
/// references, null where a row has none; OpenRLHF's servers expect this. Where a row is a
/// conversation, `messages` has it with all keys of its messages, the response as its last turn; rows
/// that are texts are null there. A null reward means no verdict. A list in `extra_logs` with one number per row becomes a part. Rows of requests that
/// fail permanently have no verdict; a wrong number of rewards is an error.
#[derive(Debug)]
pub struct RemoteReward {
    name: String,
    url: String,
    token: Option<(Secret, String)>,
    batch_size: usize,
    service: Service,
}

#[derive(Deserialize)]
struct Reply {
    rewards: Vec<Option<f64>>,
    #[serde(default)]
    extra_logs: serde_json::Map<String, serde_json::Value>,
}

impl RemoteReward {
    /// Creates the reward server of a configuration, with the token of the environment.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for settings that only judges have; [`ProviderError::Key`].
    pub fn new(config: &JudgeConfig<RewardServerApi>) -> Result<Self, ProviderError> {
        Self::with_environment(config, &process_environment)
    }

    /// Creates the reward server of a configuration, with the token from another source.
    ///
    /// # Errors
    /// As [`RemoteReward::new`].
    pub fn with_environment(
        config: &JudgeConfig<RewardServerApi>,
        environment: EnvVars<'_>,
    ) -> Result<Self, ProviderError> {
        Self::of(config, &config.api, environment)
    }

    /// Creates the reward server of a configuration whose `api` was already resolved.
    pub(crate) fn of<A>(
        config: &JudgeConfig<A>,
        api: &RewardServerApi,
        environment: EnvVars<'_>,
    ) -> Result<Self, ProviderError> {
        config.check()?;
        let RewardServerApi { url, api_key_env, batch_size } = api;
        let strangers = config.judge_only();
        if !strangers.is_empty() {
            return Err(ProviderError::Setting(BadSetting::new(
                "api.kind",
                format!("`reward-server` with {}", strangers.join(", ")),
                "that of a language model, where those keys mean something",
            )));
        }
        let batch_size = batch_size.unwrap_or(16);
        if batch_size == 0 {
            return Err(ProviderError::Setting(BadSetting::new(
                "api.batch_size",
                "0",
                "at least 1",
            )));
        }
        let token = |variable: &String| {
            Ok::<_, ProviderError>((
                Secret::from_environment(variable, environment)?,
                variable.clone(),
            ))
        };
        let address = address("api.url", url)?;
        Ok(Self {
            name: config.name.clone(),
            url: address.join(""),
            token: api_key_env.as_ref().map(token).transpose()?,
            batch_size,
            service: Service::new(&address.host, &config.limits, Ledger::new(None, None)),
        })
    }

    /// Usage so far; a reward server counts no tokens.
    pub fn usage(&self) -> Usage {
        self.service.ledger.usage()
    }

    /// Requests rewards chunk by chunk, and passes on the verdicts of each chunk as they arrive.
    fn each_chunk(
        &self,
        batch: &[Exchange<'_>],
        tell: &mut dyn FnMut(&[usize], Scores) -> ControlFlow<()>,
    ) -> Result<(), RewardError> {
        let chunks: Vec<&[Exchange<'_>]> = batch.chunks(self.batch_size).collect();
        let stop = Stop::default();
        let failure = Mutex::new(None);
        let fail = |error: RewardError| {
            lock(&failure).get_or_insert(error);
            stop.stop();
        };
        let ask = |at: usize| {
            let asked = Asked::new(self, chunks[at], at * self.batch_size);
            self.service.ask(asked, &stop).map(|answered| answered.end).map_err(fail)
        };
        self.service.each(chunks.len(), &stop, ask, |at, reply| {
            let rows: Vec<usize> = (at * self.batch_size..).take(chunks[at].len()).collect();
            let of_chunk = match reply {
                // The error was already kept, and rows begin with the reason of a stop.
                Err(()) | Ok(Err(NoAnswer::Stopped)) => return ControlFlow::Continue(()),
                Ok(Ok(reply)) => match self.scores(&reply, &rows) {
                    Ok(scores) => scores,
                    Err(error) => {
                        fail(error);
                        return ControlFlow::Continue(());
                    }
                },
                Ok(Err(NoAnswer::Reason(reason))) => Scores {
                    reasons: (0..rows.len()).map(|row| (row, reason.clone())).collect(),
                    ..Scores::new(vec![None; rows.len()])
                },
            };
            tell(&rows, of_chunk)
        });
        if let Some(error) = lock(&failure).take() {
            return Err(error);
        }
        RewardError::if_interrupted(&self.name)
    }

    /// The verdicts of one reply, on these rows of the batch.
    fn scores(&self, reply: &Reply, rows: &[usize]) -> Result<Scores, RewardError> {
        let mut scores = Scores::default();
        for (at, (reward, &row)) in reply.rewards.iter().zip(rows).enumerate() {
            let score = reward.map(|value| {
                Score::new(value as f32)
                    .map_err(|source| RewardError::non_finite(&self.name, row, source))
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
}

/// Rows of a request in progress.
struct Asked<'a> {
    server: &'a RemoteReward,
    body: Vec<u8>,
    /// Number of rows.
    rows: usize,
    /// The index of the first of them in the batch.
    first: usize,
}

impl<'a> Asked<'a> {
    fn new(server: &'a RemoteReward, rows: &[Exchange<'_>], first: usize) -> Self {
        let query: Vec<String> =
            rows.iter().map(|x| format!("{}{}", x.prompt, x.response)).collect();
        let prompts: Vec<&str> = rows.iter().map(|x| x.prompt).collect();
        let labels: Vec<Option<&str>> = rows.iter().map(|x| x.reference).collect();
        let mut body = json!({"query": query, "prompts": prompts, "labels": labels});
        let has_messages = |row: &Exchange<'_>| row.messages.is_some() || row.said.is_some();
        if rows.iter().any(has_messages) {
            let conversation = |row: &Exchange<'_>| {
                let text = |role: &str, text: &str| vec![json!({"role": role, "content": text})];
                let turns =
                    |turns: &[rlaif_core::Message]| turns.iter().map(|turn| json!(turn)).collect();
                let mut all = row.messages.map_or_else(|| text("user", row.prompt), turns);
                all.extend(row.said.map_or_else(|| text("assistant", row.response), turns));
                has_messages(row).then_some(all)
            };
            body["messages"] = rows.iter().map(conversation).collect();
        }
        Self { server, body: body.to_string().into_bytes(), rows: rows.len(), first }
    }
}

impl Asking for Asked<'_> {
    type Answer = Reply;
    type Error = RewardError;

    const WHAT: &'static str = "rewards";

    fn url(&self) -> &str {
        &self.server.url
    }

    fn message(&mut self) -> Message {
        let token = self.server.token.as_ref();
        let token = token.map(|(t, _)| ("authorization", format!("Bearer {}", t.expose())));
        Message {
            headers: token.into_iter().collect(),
            body: self.body.clone(),
            estimate: Tokens::default(),
        }
    }

    fn read(&mut self, body: &[u8]) -> Result<Read<Reply>, RewardError> {
        match serde_json::from_slice::<Reply>(body) {
            Ok(reply) if reply.rewards.len() == self.rows => {
                Ok(Read::Done(Ok(reply), Tokens::default()))
            }
            Ok(reply) => Err(RewardError::Count {
                model: self.server.name.clone(),
                column: "rewards".to_owned(),
                expected: self.rows,
                found: reply.rewards.len(),
            }),
            Err(error) => {
                if let Some((row, value)) = no_number(body) {
                    let row = self.first + row;
                    return Err(RewardError::non_finite(&self.server.name, row, NonFinite(value)));
                }
                Ok(Read::Foreign(format!(
                    "200: the reply of {} is not {{\"rewards\": [numbers]}}, check `api.url`: \
                     {error}: {}",
                    self.server.url,
                    self.redact(&excerpt(&String::from_utf8_lossy(body)))
                )))
            }
        }
    }

    /// Requests to a reward server have no optional fields.
    fn sent(&self) -> Vec<Optional> {
        Vec::new()
    }

    fn leave_out(&mut self, _: Optional) {}

    fn redact(&self, text: &str) -> String {
        self.server.token.as_ref().map_or(text.to_owned(), |(token, _)| token.redact(text))
    }

    fn fatal(&self, fatal: Fatal, complaint: Complaint) -> RewardError {
        let Complaint { status, message, .. } = complaint;
        let api = format!("the {WHO}");
        let there = format!("{api} at {}", self.server.url);
        let source = match fatal {
            Fatal::Unauthorised | Fatal::Forbidden => {
                let key = self.server.token.as_ref().map(|(_, variable)| format!("`{variable}`"));
                let key = key.unwrap_or_else(|| "`api_key_env`, which is not set".to_owned());
                ProviderError::Unauthorised { api: there, key, status, message }
            }
            Fatal::SpendLimit => ProviderError::SpendLimit { api: there, status, message },
            Fatal::UnknownModel | Fatal::NoSuchPath | Fatal::Unexpected => {
                ProviderError::Refused { api, url: self.server.url.clone(), status, message }
            }
        };
        RewardError::Failed { model: self.server.name.clone(), source: Box::new(source) }
    }
}

/// The first reward that is written as Python writes NaN and infinity, which JSON does not have,
/// and its index.
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
        let mut scores = Scores::new(vec![None; batch.len()]);
        let reasons = (0..batch.len()).map(|row| (row, stopped(WHO)));
        scores.reasons = reasons.collect();
        self.each_chunk(batch, &mut |rows, of_chunk| {
            scores.reasons.retain(|(row, _)| !rows.contains(row));
            scores.fill_from(of_chunk, rows);
            ControlFlow::Continue(())
        })?;
        Ok(scores)
    }

    fn score_each(&self, batch: &[Exchange<'_>], tell: &mut Tell<'_>) -> Result<(), RewardError> {
        self.each_chunk(batch, &mut |rows, of_chunk| {
            rows.iter().enumerate().try_for_each(|(at, &row)| tell(row, of_chunk.gather(&[at])))
        })
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        let usage = self.usage();
        let metrics = [("requests", usage.requests), ("retries", usage.retries)];
        metrics.map(|(key, value)| (format!("{}/{key}", self.name), value as f64)).into()
    }
}
