//! `rlaif generate`.

use std::{cell::Cell, io::Write, ops::ControlFlow};

use rlaif_core::{
    ChatOptions, Message, Metadata, Rendering, Seed, Specials, TextCodec, TextOrMessages,
};
use rlaif_lm::{
    Draw, Joiner, LmSpec, Policy, Sampled, SamplerCall, Weights,
    generate::{Ask, FinishReason, GenerationConfig, Hooks, NewToken, before_stop},
    respond,
};
use rlaif_models::LanguageModel;
use rlaif_text::HfTokenizer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    error::{CommandError, RowFault},
    model::ModelChoice,
    rows::{Job, RowStream, StreamProgress},
    tokenizer::{RowTokenizer, tell_notices},
};

/// Responses of a language model to prompts.
#[derive(Debug, Clone)]
pub struct GenerateRows {
    /// Length, sampling, and ends of responses.
    pub config: GenerationConfig,
    /// Seed of the draws. A row's tokens depend on the seed and the row's number only.
    pub seed: Seed,
    /// The conversion of prompts to texts.
    pub how: Rendering,
}

impl GenerateRows {
    /// Writes a response for each row.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn run(self, model: &ModelChoice, rows: RowStream<'_>) -> Result<(), CommandError> {
        let (policy, tokenizer) = self.load(model)?;
        // Stop strings need decoded text.
        let tokenizer = match self.config.stop_strings.is_empty() {
            true => tokenizer,
            false => tokenizer.required()?,
        };
        let next = Cell::new(0);
        let job = GenerateJob { model: &model.model, policy, tokenizer, settings: self, next };
        rows.run(&job)?;
        job.tokenizer.tell_notices();
        Ok(())
    }

    /// Writes the response to one prompt, as text, while it is generated.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn run_one(
        &self,
        model: &ModelChoice,
        prompt: &str,
        output: &mut dyn Write,
    ) -> Result<(), CommandError> {
        let (policy, tokenizer) = self.load(model)?;
        let tokenizer = tokenizer.needed()?;
        let (prompt, kind) =
            self.how.prompt(&tokenizer, &prompt.into(), &ChatOptions::default())?;
        let prompt = Joiner::new(&tokenizer, policy.spec()).open_one(&prompt, kind)?;
        fits(&prompt, None, &self.config, policy.spec()).map_err(|problem| CommandError::Row {
            source_name: "--prompt".to_owned(),
            line: 1,
            problem: Box::new(problem),
        })?;
        tell_notices(&tokenizer);
        stream(&policy, &tokenizer, prompt, &self.config, self.seed, output)
    }

    fn load(&self, model: &ModelChoice) -> Result<(LanguageModel, RowTokenizer), CommandError> {
        let files = model.files()?;
        let policy = model.language_model(&files)?;
        let tokenizer = RowTokenizer::new(&files, policy.spec().vocab_size);
        self.config.check(policy.spec())?;
        Ok((policy, tokenizer))
    }
}

/// Checks that a prompt leaves room for a response of the maximum length.
fn fits(
    prompt: &[u32],
    own: Option<usize>,
    config: &GenerationConfig,
    spec: &LmSpec,
) -> Result<(), RowFault> {
    let new = own.unwrap_or(config.max_new_tokens);
    let (None, Some(context)) = (spec.decoder_start_id, spec.context) else {
        let length = spec.positions(prompt.len(), new);
        return spec.check_length(0, length).map_err(RowFault::Lm);
    };
    if prompt.len() + new <= context {
        return Ok(());
    }
    let key = if own.is_some() { "the row's max_new_tokens" } else { "--max-new-tokens" };
    Err(RowFault::NoRoom { prompt: prompt.len(), new, key, context })
}

/// Writes one response during generation.
fn stream(
    policy: &LanguageModel,
    tokenizer: &HfTokenizer,
    prompt: Vec<u32>,
    config: &GenerationConfig,
    seed: Seed,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let row = Ask { id: 0, prompt, max_new_tokens: None };
    let mut ids = Vec::new();
    let mut written = 0;
    let mut outcome = Ok(());
    let mut on_token = |new: NewToken| {
        ids.push(new.id);
        outcome = tokenizer.decode(&ids, Specials::Exclude).map_err(CommandError::from).and_then(
            |text| {
                let ready = ready(&text, &config.stop_strings, new.finish);
                if ready.len() > written && ready.is_char_boundary(written) {
                    output.write_all(&ready.as_bytes()[written..]).map_err(CommandError::Output)?;
                    output.flush().map_err(CommandError::Output)?;
                    written = ready.len();
                }
                Ok(())
            },
        );
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let hooks = Hooks { codec: Some(tokenizer), on_token: Some(&mut on_token) };
    let draw = Draw { seed, step: 0 };
    let call = SamplerCall { weights: Weights::of(policy), how: config, draw };
    let result = respond(&[row], call, hooks);
    outcome?;
    result?;
    output.write_all(b"\n").map_err(CommandError::Output)
}

/// The part of the text so far that later tokens cannot change: without a possible beginning of a
/// stop string, or of a character.
pub(super) fn ready<'t>(text: &'t str, stops: &[String], finish: Option<FinishReason>) -> &'t str {
    let text = before_stop(text, stops);
    if finish.is_some() {
        return text;
    }
    let mut text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    let held = stops.iter().flat_map(|stop| {
        stop.char_indices().map(|(end, _)| &stop[..end]).filter(|start| !start.is_empty())
    });
    if let Some(longest) = held.filter(|start| text.ends_with(start)).map(str::len).max() {
        text = &text[..text.len() - longest];
    }
    text
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    prompt: Option<TextOrMessages>,
    prompt_ids: Option<Vec<u32>>,
    messages: Option<Vec<Message>>,
    max_new_tokens: Option<usize>,
    #[serde(default, deserialize_with = "ChatOptions::kwargs_field")]
    chat_template_kwargs: Metadata,
    #[serde(default, deserialize_with = "ChatOptions::tools_field")]
    tools: Option<Vec<Value>>,
}

#[derive(Debug, Serialize)]
struct Answer {
    /// Left out if the folder has no tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<String>,
    response_ids: Vec<u32>,
    log_probs: Vec<f32>,
    finish_reason: FinishReason,
}

struct GenerateJob<'a> {
    /// As the user named it.
    model: &'a str,
    policy: LanguageModel,
    tokenizer: RowTokenizer,
    settings: GenerateRows,
    /// Number of the next row of the input.
    next: Cell<u64>,
}

impl GenerateJob<'_> {
    fn prompt(&self, row: Row) -> Result<Vec<u32>, RowFault> {
        let Row { prompt_ids, prompt, messages, tools, chat_template_kwargs: kwargs, .. } = row;
        let prompt = match (prompt_ids, prompt, messages) {
            (Some(ids), None, None) => return Ok(ids),
            (None, Some(prompt), None) => prompt,
            (None, None, Some(messages)) => messages.into(),
            _ => return Err(RowFault::Fields { expected: Self::FIELDS }),
        };
        let tokenizer = self.tokenizer.of_text()?;
        let own = ChatOptions { kwargs, tools, ..ChatOptions::default() };
        let (text, kind) =
            self.settings.how.prompt(tokenizer, &prompt, &own).map_err(RowFault::Codec)?;
        let joiner = Joiner::new(tokenizer, self.policy.spec());
        joiner.open_one(&text, kind).map_err(RowFault::Codec)
    }
}

impl Job for GenerateJob<'_> {
    type Input = Row;
    type Prepared = Ask;
    type Output = Answer;
    const FIELDS: &'static str = "`prompt`, `prompt_ids` or `messages`, and maybe `max_new_tokens`";

    fn prepare(&self, rows: Vec<Row>) -> Vec<Result<Ask, RowFault>> {
        rows.into_iter()
            .map(|row| {
                let id = self.next.replace(self.next.get() + 1);
                let max_new_tokens = row.max_new_tokens;
                let prompt = self.prompt(row)?;
                fits(&prompt, max_new_tokens, &self.settings.config, self.policy.spec())?;
                let row = Ask { id, prompt, max_new_tokens };
                row.check(0, &self.settings.config, self.policy.spec()).map_err(RowFault::Lm)?;
                Ok(row)
            })
            .collect()
    }

    fn model(&self) -> &str {
        self.model
    }

    fn length(row: &Ask) -> usize {
        row.prompt.len()
    }

    /// Generation makes its own batches, and refills them.
    fn together(&self, _batch_size: usize) -> usize {
        usize::MAX
    }

    fn compute(
        &self,
        rows: &[&Ask],
        progress: &mut dyn FnMut(StreamProgress),
    ) -> Result<Vec<Answer>, CommandError> {
        let rows: Vec<Ask> = rows.iter().map(|row| (*row).clone()).collect();
        let (of, mut done, mut tokens) = (rows.len(), 0, 0);
        progress(StreamProgress::Responses { done, of, tokens });
        let mut on_token = |new: NewToken| {
            tokens += 1;
            done += usize::from(new.finish.is_some());
            progress(StreamProgress::Responses { done, of, tokens });
            ControlFlow::Continue(())
        };
        let codec = self.tokenizer.known().map(|tokenizer| tokenizer as &dyn TextCodec);
        let hooks = Hooks { codec, on_token: Some(&mut on_token) };
        let draw = Draw { seed: self.settings.seed, step: 0 };
        let (weights, how) = (Weights::of(&self.policy), &self.settings.config);
        let all = respond(&rows, SamplerCall { weights, how, draw }, hooks)
            .map_err(|source| CommandError::OfModel { model: self.model.to_owned(), source })?;
        progress(StreamProgress::Responses { done: of, of, tokens });
        let answer = |sampled: Sampled| Answer {
            response: codec.map(|_| sampled.text),
            response_ids: sampled.ids,
            log_probs: sampled.log_probs.unwrap_or_default(),
            finish_reason: sampled.finish,
        };
        Ok(all.into_iter().map(answer).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_become_a_stop_string_is_held_back() {
        let stops = ["\nUser:".to_owned(), "END".to_owned()];
        for (text, shown) in [
            ("hello", "hello"),
            ("hello\n", "hello"),
            ("hello\nUs", "hello"),
            ("hello\nUp", "hello\nUp"),
            ("hello EN", "hello "),
            ("hello END of", "hello "),
            ("caf\u{fffd}", "caf"),
        ] {
            assert_eq!(ready(text, &stops, None), shown, "{text:?}");
        }
        assert_eq!(ready("hello\nUs", &stops, Some(FinishReason::Length)), "hello\nUs");
        assert_eq!(ready("a END b", &stops, Some(FinishReason::Stop)), "a ");
    }
}
