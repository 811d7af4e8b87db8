//! `rlaif logprobs`.

use clap::Args;
use rlaif_core::{ChatOptions, Message, Metadata, Rendering, Specials, TextCodec, TextOrMessages};
use rlaif_lm::{Forward, Joined, Joiner, Padding, Policy, Texts, TokenBatch, policy_log_probs};
use rlaif_models::LanguageModel;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::{Kind, Tensor, no_grad};

use super::{
    error::{CliError, RowProblem},
    model::{ModelArguments, RowTokenizer},
    prompt::PromptArguments,
    rows::{Job, RowArguments},
};

#[derive(Debug, Args)]
pub(crate) struct LogProbs {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    rows: RowArguments,
    #[command(flatten)]
    form: PromptArguments,
    /// The sampling temperature that logits are divided by.
    #[arg(long, default_value_t = 1.)]
    temperature: f64,
}

impl LogProbs {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        if self.temperature.is_nan() || self.temperature <= 0. {
            return Err(CliError::Flag {
                flag: "temperature",
                found: self.temperature.to_string(),
                expected: "a positive number",
            });
        }
        let files = self.model.files()?;
        let policy = self.model.language_model(&files)?;
        let tokenizer = RowTokenizer::new(&files, policy.spec().vocab_size);
        let model = self.model.model.clone();
        let how = self.form.rendering()?;
        let job = LogProbJob { model, policy, tokenizer, how, temperature: self.temperature };
        self.rows.run(&job)?;
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

struct LogProbJob {
    /// As the user named it.
    model: String,
    policy: LanguageModel,
    tokenizer: RowTokenizer,
    /// The conversion of rows to texts.
    how: Rendering,
    temperature: f64,
}

impl LogProbJob {
    fn ids(&self, row: Row) -> Result<(Vec<u32>, Vec<u32>), RowProblem> {
        let Row { prompt, response, messages, prompt_ids, response_ids, tools, .. } = row;
        let (prompt, response) = match (prompt_ids, response_ids, prompt, response, messages) {
            (Some(prompt), Some(response), None, None, None) => return Ok((prompt, response)),
            (None, None, Some(prompt), Some(response), None) => (prompt, response),
            (None, None, None, None, Some(messages)) => last_turn(messages),
            _ => return Err(RowProblem::Fields { expected: Self::FIELDS }),
        };
        let tokenizer = self.tokenizer.of_text()?;
        let own = ChatOptions { kwargs: row.chat_template_kwargs, tools, ..ChatOptions::default() };
        let rendered = self.how.exchange(tokenizer, &prompt, &[&response], &own);
        let (prompt, said, kind) = rendered.map_err(RowProblem::Codec)?;
        let said = said.first().map_or("", String::as_str);
        let joiner = Joiner::new(tokenizer, self.policy.spec());
        if joiner.is_encoder_decoder() {
            let prompt = joiner.open_one(&prompt, kind).map_err(RowProblem::Codec)?;
            let response = tokenizer.encode(said, Specials::Exclude).map_err(RowProblem::Codec)?;
            return Ok((prompt, response));
        }
        let texts = Texts { prompt: &prompt, responses: vec![said], kind };
        let joined = joiner.join(&[texts]).map_err(RowProblem::Codec)?.pop();
        let Joined { prompt, mut responses, .. } = joined.unwrap_or_default();
        Ok((prompt, responses.pop().unwrap_or_default()))
    }

    fn check(&self, prompt: &[u32], response: &[u32]) -> Result<(), RowProblem> {
        let spec = self.policy.spec();
        spec.check(0, prompt)
            .and_then(|()| spec.check(0, response))
            .and_then(|()| spec.check_length(0, prompt.len() + response.len()))
            .map_err(RowProblem::Lm)
    }
}

impl Job for LogProbJob {
    type Input = Row;
    type Prepared = (Vec<u32>, Vec<u32>);
    type Output = Answer;
    const FIELDS: &'static str =
        "`prompt` and `response`, `prompt_ids` and `response_ids`, or `messages`";

    fn prepare(&self, rows: Vec<Row>) -> Vec<Result<Self::Prepared, RowProblem>> {
        rows.into_iter()
            .map(|row| {
                let (prompt, response) = self.ids(row)?;
                self.check(&prompt, &response)?;
                Ok((prompt, response))
            })
            .collect()
    }

    fn model(&self) -> &str {
        &self.model
    }

    fn length((prompt, response): &Self::Prepared) -> usize {
        prompt.len() + response.len()
    }

    fn compute(&self, rows: &[&Self::Prepared]) -> Result<Vec<Answer>, CliError> {
        let spec = self.policy.spec();
        let prompts = rows.iter().map(|row| row.0.clone()).collect();
        let prompts = TokenBatch::collate(prompts, spec, Padding::Right)?;
        let responses = rows.iter().map(|row| row.1.clone()).collect();
        let responses = TokenBatch::responses(responses, spec)?;
        let forward = Forward::default();
        let got = no_grad(|| {
            policy_log_probs(&self.policy, &prompts, &responses, forward, self.temperature)
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
pub(crate) fn last_turn(mut messages: Vec<Message>) -> (TextOrMessages, TextOrMessages) {
    let last = messages.split_off(messages.len().saturating_sub(1));
    (messages.into(), last.into())
}

/// Splits `[B, T]` into rows.
pub(crate) fn rows_of(x: &Tensor) -> Vec<Vec<f32>> {
    let x = x.to_device(tch::Device::Cpu).to_kind(Kind::Float);
    Vec::<Vec<f32>>::try_from(&x).expect("a matrix of f32")
}
