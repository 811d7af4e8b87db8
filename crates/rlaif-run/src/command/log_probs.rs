//! `rlaif logprobs`.

use rlaif_core::{ChatOptions, Message, Metadata, Rendering, Specials, TextCodec, TextOrMessages};
use rlaif_lm::{Forward, Joined, Joiner, Padding, Policy, Texts, TokenBatch, policy_log_probs};
use rlaif_models::LanguageModel;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::no_grad;

use super::{
    error::{CommandError, RowFault},
    matrix::rows_of,
    model::ModelChoice,
    rows::{Job, RowStream, StreamProgress},
    tokenizer::RowTokenizer,
};

/// Log-probabilities and entropies of given responses.
#[derive(Debug, Clone)]
pub struct LogProbRows {
    /// The conversion of rows to texts.
    pub how: Rendering,
    /// The sampling temperature that logits are divided by.
    pub temperature: f64,
}

impl Default for LogProbRows {
    fn default() -> Self {
        Self { how: Rendering::default(), temperature: 1. }
    }
}

impl LogProbRows {
    /// Writes the log-probabilities of each row's response.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn run(self, model: &ModelChoice, rows: RowStream<'_>) -> Result<(), CommandError> {
        if self.temperature.is_nan() || self.temperature <= 0. {
            let expected = "a positive number";
            return Err(CommandError::setting("temperature", self.temperature, expected));
        }
        let files = model.files()?;
        let policy = model.language_model(&files)?;
        let tokenizer = RowTokenizer::new(&files, policy.spec().vocab_size);
        let job = LogProbJob { model: &model.model, policy, tokenizer, settings: self };
        rows.run(&job)?;
        job.tokenizer.tell_notices();
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    prompt: Option<TextOrMessages>,
    #[serde(alias = "completion")]
    response: Option<TextOrMessages>,
    messages: Option<Vec<Message>>,
    prompt_ids: Option<Vec<u32>>,
    response_ids: Option<Vec<u32>>,
    #[serde(default, deserialize_with = "ChatOptions::kwargs_field")]
    chat_template_kwargs: Metadata,
    #[serde(default, deserialize_with = "ChatOptions::tools_field")]
    tools: Option<Vec<Value>>,
}

#[derive(Debug, Serialize)]
struct Answer {
    log_probs: Vec<f32>,
    sum: f64,
    entropy: Vec<f32>,
}

struct LogProbJob<'a> {
    /// As the user named it.
    model: &'a str,
    policy: LanguageModel,
    tokenizer: RowTokenizer,
    settings: LogProbRows,
}

impl LogProbJob<'_> {
    fn ids(&self, row: Row) -> Result<(Vec<u32>, Vec<u32>), RowFault> {
        let Row { prompt, response, messages, prompt_ids, response_ids, tools, .. } = row;
        let (prompt, response) = match (prompt_ids, response_ids, prompt, response, messages) {
            (Some(prompt), Some(response), None, None, None) => return Ok((prompt, response)),
            (None, None, Some(prompt), Some(response), None) => (prompt, response),
            (None, None, None, None, Some(messages)) => last_turn(messages),
            _ => return Err(RowFault::Fields { expected: Self::FIELDS }),
        };
        let tokenizer = self.tokenizer.of_text()?;
        let own = ChatOptions { kwargs: row.chat_template_kwargs, tools, ..ChatOptions::default() };
        let rendered = self.settings.how.exchange(tokenizer, &prompt, &[&response], &own);
        let (prompt, said, kind) = rendered.map_err(RowFault::Codec)?;
        let said = said.first().map_or("", String::as_str);
        let joiner = Joiner::new(tokenizer, self.policy.spec());
        if joiner.is_encoder_decoder() {
            let prompt = joiner.open_one(&prompt, kind).map_err(RowFault::Codec)?;
            let response = tokenizer.encode(said, Specials::Exclude).map_err(RowFault::Codec)?;
            return Ok((prompt, response));
        }
        let texts = Texts { prompt: &prompt, responses: vec![said], kind };
        let joined = joiner.join(&[texts]).map_err(RowFault::Codec)?.pop();
        let Joined { prompt, mut responses, .. } = joined.unwrap_or_default();
        Ok((prompt, responses.pop().unwrap_or_default()))
    }

    fn check(&self, prompt: &[u32], response: &[u32]) -> Result<(), RowFault> {
        let spec = self.policy.spec();
        spec.check(0, prompt)
            .and_then(|()| spec.check(0, response))
            .and_then(|()| spec.check_length(0, spec.positions(prompt.len(), response.len())))
            .map_err(RowFault::Lm)
    }
}

impl Job for LogProbJob<'_> {
    type Input = Row;
    type Prepared = (Vec<u32>, Vec<u32>);
    type Output = Answer;
    const FIELDS: &'static str =
        "`prompt` and `response`, `prompt_ids` and `response_ids`, or `messages`";

    fn prepare(&self, rows: Vec<Row>) -> Vec<Result<Self::Prepared, RowFault>> {
        rows.into_iter()
            .map(|row| {
                let (prompt, response) = self.ids(row)?;
                self.check(&prompt, &response)?;
                Ok((prompt, response))
            })
            .collect()
    }

    fn model(&self) -> &str {
        self.model
    }

    fn length((prompt, response): &Self::Prepared) -> usize {
        prompt.len() + response.len()
    }

    fn compute(
        &self,
        rows: &[&Self::Prepared],
        _: &mut dyn FnMut(StreamProgress),
    ) -> Result<Vec<Answer>, CommandError> {
        let spec = self.policy.spec();
        let prompts = rows.iter().map(|row| row.0.clone()).collect();
        let prompts = TokenBatch::collate(prompts, spec, Padding::Right)?;
        let responses = rows.iter().map(|row| row.1.clone()).collect();
        let responses = TokenBatch::responses(responses, spec)?;
        let forward = Forward::default();
        let got = no_grad(|| {
            policy_log_probs(&self.policy, &prompts, &responses, forward, self.settings.temperature)
        })?;
        let log_probs = rows_of(&got.log_probs);
        let entropies = rows_of(&got.entropy);
        let answers = rows.iter().zip(log_probs.into_iter().zip(entropies));
        Ok(answers
            .map(|(row, (mut log_probs, mut entropy))| {
                log_probs.truncate(row.1.len());
                entropy.truncate(row.1.len());
                let sum = log_probs.iter().map(|&x| f64::from(x)).sum();
                Answer { log_probs, sum, entropy }
            })
            .collect())
    }
}

/// Splits a conversation into its last turn and what precedes it.
pub(super) fn last_turn(mut messages: Vec<Message>) -> (TextOrMessages, TextOrMessages) {
    let last = messages.split_off(messages.len().saturating_sub(1));
    (messages.into(), last.into())
}
