//! `rlaif generate`.

use std::{io, num::ParseIntError, path::PathBuf, str::FromStr};

use clap::Args;
use rlaif_core::Seed;
use rlaif_lm::generate::{Eos, GenerationConfig, Sampling};
use rlaif_run::command;

use super::{error::CliError, model::AskedModel, prompt::PromptArguments, rows::RowArguments};

#[derive(Debug, Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    model: AskedModel,
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

fn eos(name: &str) -> Result<Eos, String> {
    serde_json::from_value(name.into()).map_err(|_| "expected ends or ignored".to_owned())
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
    /// tokens, which are not text, use --stop-ids.
    #[arg(long, alias = "stop", allow_hyphen_values = true)]
    stop_strings: Vec<String>,
    /// A token id that ends a response, also of a special token; may be given several times.
    #[arg(long, alias = "stop-id")]
    stop_ids: Vec<u32>,
    /// Consecutive ids that must not occur in a response, such as 5,6,7; may be given several
    /// times.
    #[arg(long, value_name = "ID,ID,..")]
    bad_ids: Vec<Sequence>,
    /// Effect of an end of sequence: `ends` the response, or is `ignored`, so that it has its full length.
    #[arg(long, default_value = "ends", value_parser = eos)]
    eos: Eos,
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
            eos: self.eos,
            stop_ids: self.stop_ids.clone(),
            stop_strings: self.stop_strings.clone(),
            bad_ids: self.bad_ids.iter().map(|Sequence(ids)| ids.clone()).collect(),
            batch_size,
            ..GenerationConfig::default()
        }
    }
}

impl Generate {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let generate = command::GenerateRows {
            config: self.settings.config(self.batch_size),
            seed: Seed::new(self.settings.seed),
            how: self.form.rendering()?,
        };
        let model = self.model.choice();
        match (&self.prompt, &self.input) {
            (Some(prompt), _) => Ok(generate.run_one(&model, prompt, &mut io::stdout().lock())?),
            (None, Some(input)) => {
                let rows = RowArguments::new(input.clone(), self.batch_size);
                rows.run(|rows| generate.run(&model, rows))
            }
            (None, None) => unreachable!("clap asks for one of them"),
        }
    }
}
