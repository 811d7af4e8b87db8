//! `rlaif generate`.

use std::{
    cell::Cell,
    io::{self, Write},
    num::ParseIntError,
    ops::ControlFlow,
    path::PathBuf,
    str::FromStr,
};

use clap::Args;
use rlaif_core::{
    ChatOptions, Message, Metadata, Rendering, Seed, Specials, TextCodec, TextOrMessages,
};
use rlaif_lm::{
    Draw, Joiner, LmSpec, Policy, Sampled, Weights,
    generate::{Ask, Eos, FinishReason, GenerationConfig, Hooks, NewToken, Sampling, before_stop},
    respond,
};
use rlaif_models::LanguageModel;
use rlaif_text::HfTokenizer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    error::{CliError, RowProblem},
    model::{ModelArguments, RowTokenizer, tell_notices},
    print::unwritable,
    progress::bar,
    prompt::PromptArguments,
    rows::{Job, RowArguments},
};

#[derive(Debug, Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    model: ModelArguments,
    /// JSON Lines; `-` reads standard input.
    #[arg(long, required_unless_present = "prompt")]
    input: Option<PathBuf>,
    /// Rows decoded together.
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    /// One prompt instead of rows; the response is written as text while it is generated.
    #[arg(long, conflicts_with = "input", allow_hyphen_values = true)]
    prompt: Option<String>,
    #[command(flatten)]
    form: PromptArguments,
    #[command(flatten)]
    settings: Settings,
}

/// The choice of tokens.
#[derive(Debug, Args)]
pub(super) struct SamplingArguments {
    /// Always chooses the most probable token.
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"])]
    greedy: bool,
    /// Divisor of the logits before the draw.
    #[arg(long, default_value_t = 1.)]
    temperature: f64,
    /// Draws from the K most probable tokens.
    #[arg(long)]
    top_k: Option<usize>,
    /// Draws from the most probable tokens that sum to P.
    #[arg(long)]
    top_p: Option<f64>,
    /// Draws from tokens at least P times as probable as the most probable one.
    #[arg(long)]
    min_p: Option<f64>,
    /// Penalty on the logits of tokens that occurred; 1 disables it.
    #[arg(long, default_value_t = 1.)]
    pub(super) repetition_penalty: f64,
}

impl SamplingArguments {
    pub(super) fn sampling(&self) -> Sampling {
        if self.greedy {
            return Sampling::Greedy;
        }
        Sampling::Sample {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        }
    }
}

/// Consecutive ids.
#[derive(Debug, Clone)]
struct Sequence(Vec<u32>);

impl FromStr for Sequence {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.split(',').map(|id| id.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

#[derive(Debug, Args)]
struct Settings {
    /// Maximum length of a response, in tokens; a row may have its own `max_new_tokens`.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// Minimum length of a response, in tokens, before an end of sequence.
    #[arg(long, default_value_t = 0)]
    min_new_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// A text that ends a response, and is left out of it; may be given several times. For special
    /// tokens, which are not text, use --stop-id.
    #[arg(long, allow_hyphen_values = true)]
    stop: Vec<String>,
    /// A token id that ends a response, also of a special token; may be given several times.
    #[arg(long)]
    stop_id: Vec<u32>,
    /// Consecutive ids that must not occur in a response, such as 5,6,7; may be given several
    /// times.
    #[arg(long, value_name = "ID,ID,..")]
    bad_ids: Vec<Sequence>,
    /// Continues after an end of sequence, to the full length.
    #[arg(long)]
    ignore_eos: bool,
    /// Seed of the draws. A row's tokens depend on the seed and the row's number only.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Settings {
    fn config(&self, batch_size: usize) -> GenerationConfig {
        GenerationConfig {
            max_new_tokens: self.max_new_tokens,
            min_new_tokens: self.min_new_tokens,
            sampling: self.sampling.sampling(),
            repetition_penalty: self.sampling.repetition_penalty,
            eos: if self.ignore_eos { Eos::Ignored } else { Eos::Ends },
            stop_ids: self.stop_id.clone(),
            stop_strings: self.stop.clone(),
            bad_ids: self.bad_ids.iter().map(|Sequence(ids)| ids.clone()).collect(),
            batch_size,
            ..GenerationConfig::default()
        }
    }
}

impl Generate {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let files = self.model.files()?;
        let policy = self.model.language_model(&files)?;
        let tokenizer = RowTokenizer::new(&files, policy.spec().vocab_size);
        let config = self.settings.config(self.batch_size);
        config.check(policy.spec())?;
        let seed = Seed::new(self.settings.seed);
        let how = self.form.rendering()?;
        match (&self.prompt, &self.input) {
            (Some(prompt), _) => {
                let tokenizer = tokenizer.needed()?;
                let (prompt, kind) =
                    how.prompt(&tokenizer, &prompt.as_str().into(), &ChatOptions::default())?;
                let prompt = Joiner::new(&tokenizer, policy.spec()).open_one(&prompt, kind)?;
                fits(&prompt, None, &config, policy.spec()).map_err(|problem| CliError::Row {
                    source_name: "--prompt".to_owned(),
                    line: 1,
                    problem: Box::new(problem),
                })?;
                tell_notices(&tokenizer);
                stream(&policy, &tokenizer, prompt, &config, seed)
            }
            (None, Some(input)) => {
                // Stop strings need decoded text.
                let tokenizer = match config.stop_strings.is_empty() {
                    true => tokenizer,
                    false => tokenizer.required()?,
                };
                let model = self.model.model.clone();
                let next = Cell::new(0);
                let job = GenerateJob { model, policy, tokenizer, config, seed, how, next };
                RowArguments::new(input.clone(), self.batch_size).run(&job)?;
                job.tokenizer.tell_notices();
                Ok(())
            }
            (None, None) => unreachable!("clap asks for one of them"),
        }
    }
}

/// Checks that a prompt leaves room for a response of the maximum length.
fn fits(
    prompt: &[u32],
    own: Option<usize>,
    config: &GenerationConfig,
    spec: &LmSpec,
) -> Result<(), RowProblem> {
    // The encoder's input does not shorten the response.
    let (None, Some(context)) = (spec.decoder_start_id, spec.context) else { return Ok(()) };
    let new = own.unwrap_or(config.max_new_tokens);
    if prompt.len() + new <= context {
        return Ok(());
    }
    let key = if own.is_some() { "the row's max_new_tokens" } else { "--max-new-tokens" };
    Err(RowProblem::NoRoom { prompt: prompt.len(), new, key, context })
}

/// Writes one response to standard output during generation.
fn stream(
    policy: &LanguageModel,
    tokenizer: &HfTokenizer,
    prompt: Vec<u32>,
    config: &GenerationConfig,
    seed: Seed,
) -> Result<(), CliError> {
    let row = Ask { id: 0, prompt, max_new_tokens: None };
    let mut output = io::stdout().lock();
    let mut ids = Vec::new();
    let mut written = 0;
    let mut outcome = Ok(());
    let mut on_token = |new: NewToken| {
        ids.push(new.id);
        outcome =
            tokenizer.decode(&ids, Specials::Exclude).map_err(CliError::from).and_then(|text| {
                let ready = ready(&text, &config.stop_strings, new.finish);
                if ready.len() > written && ready.is_char_boundary(written) {
                    output.write_all(&ready.as_bytes()[written..]).map_err(unwritable)?;
                    output.flush().map_err(unwritable)?;
                    written = ready.len();
                }
                Ok(())
            });
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let hooks = Hooks { codec: Some(tokenizer), on_token: Some(&mut on_token) };
    let draw = Draw { seed, step: 0 };
    let result = respond(Weights::of(policy), &[row], config, draw, hooks);
    outcome?;
    result?;
    output.write_all(b"\n").map_err(unwritable)
}

/// The part of the text so far that later tokens cannot change: without a possible beginning of a
/// stop string, or of a character.
fn ready<'t>(text: &'t str, stops: &[String], finish: Option<FinishReason>) -> &'t str {
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

struct GenerateJob {
    /// As the user named it.
    model: String,
    policy: LanguageModel,
    tokenizer: RowTokenizer,
    config: GenerationConfig,
    seed: Seed,
    /// The conversion of prompts to texts.
    how: Rendering,
    /// Number of the next row of the input.
    next: Cell<u64>,
}

impl GenerateJob {
    fn prompt(&self, row: Row) -> Result<Vec<u32>, RowProblem> {
        let Row { prompt_ids, prompt, messages, tools, chat_template_kwargs: kwargs, .. } = row;
        let prompt = match (prompt_ids, prompt, messages) {
            (Some(ids), None, None) => return Ok(ids),
            (None, Some(prompt), None) => prompt,
            (None, None, Some(messages)) => messages.into(),
            _ => return Err(RowProblem::Fields { expected: Self::FIELDS }),
        };
        let tokenizer = self.tokenizer.of_text()?;
        let own = ChatOptions { kwargs, tools, ..ChatOptions::default() };
        let (text, kind) = self.how.prompt(tokenizer, &prompt, &own).map_err(RowProblem::Codec)?;
        let joiner = Joiner::new(tokenizer, self.policy.spec());
        joiner.open_one(&text, kind).map_err(RowProblem::Codec)
    }
}

impl Job for GenerateJob {
    type Input = Row;
    type Prepared = Ask;
    type Output = Answer;
    const FIELDS: &'static str = "`prompt`, `prompt_ids` or `messages`, and maybe `max_new_tokens`";

    fn prepare(&self, rows: Vec<Row>) -> Vec<Result<Ask, RowProblem>> {
        rows.into_iter()
            .map(|row| {
                let id = self.next.replace(self.next.get() + 1);
                let max_new_tokens = row.max_new_tokens;
                let prompt = self.prompt(row)?;
                fits(&prompt, max_new_tokens, &self.config, self.policy.spec())?;
                let row = Ask { id, prompt, max_new_tokens };
                row.check(0, &self.config, self.policy.spec()).map_err(RowProblem::Lm)?;
                Ok(row)
            })
            .collect()
    }

    fn model(&self) -> &str {
        &self.model
    }

    fn length(row: &Ask) -> usize {
        row.prompt.len()
    }

    /// Generation makes its own batches, and refills them.
    fn together(&self, _batch_size: usize) -> usize {
        usize::MAX
    }

    fn compute(&self, rows: &[&Ask]) -> Result<Vec<Answer>, CliError> {
        let rows: Vec<Ask> = rows.iter().map(|row| (*row).clone()).collect();
        let bar = bar(Some(rows.len() as u64), "{bar:40} {pos} of {len} responses  {msg}");
        let mut tokens = 0u64;
        let mut on_token = |new: NewToken| {
            tokens += 1;
            if new.finish.is_some() {
                bar.inc(1);
            }
            if tokens.is_multiple_of(64) {
                let rate = tokens as f64 / bar.elapsed().as_secs_f64().max(1e-3);
                bar.set_message(format!("{tokens} tokens, {rate:.0} per second"));
            }
            ControlFlow::Continue(())
        };
        let codec = self.tokenizer.known().map(|tokenizer| tokenizer as &dyn TextCodec);
        let hooks = Hooks { codec, on_token: Some(&mut on_token) };
        let draw = Draw { seed: self.seed, step: 0 };
        let all = respond(Weights::of(&self.policy), &rows, &self.config, draw, hooks)
            .map_err(|source| CliError::OfModel { model: self.model.clone(), source })?;
        bar.finish_and_clear();
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
