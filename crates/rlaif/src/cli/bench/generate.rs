//! `rlaif bench generate`.

use std::time::Instant;

use clap::Args;
use rlaif_core::Seed;
use rlaif_lm::{
    Draw, Policy, Weights,
    generate::{Ask, Eos, GenerationConfig, Hooks},
    respond,
};
use rlaif_torch::{Work, seeded};
use serde_json::json;

use super::common::{Measured, Meter, at_least_one, median, random_rows};
use crate::cli::{
    error::CliError,
    generate::SamplingArguments,
    lengths::Lengths,
    model::{self, Placement},
};

#[derive(Debug, Args)]
pub(crate) struct GenerateBench {
    /// Folder in Hugging Face's layout, or hub id.
    #[arg(long, alias = "policy")]
    model: String,
    #[command(flatten)]
    placement: Placement,
    /// Rows decoded together.
    #[arg(long, alias = "batch", default_value_t = 16)]
    batch_size: usize,
    /// Prompts of one call; by default, as many as are decoded together.
    #[arg(long)]
    rows: Option<usize>,
    /// Lengths of the prompts in tokens: one length, one for each row (64,101,..) or a range
    /// (8-256).
    #[arg(long, default_value = "96")]
    prompt_len: Lengths,
    /// Lengths of the responses in tokens, in the same format; end of sequence is ignored.
    #[arg(long, default_value = "32")]
    new_tokens: Lengths,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Timed calls, after one untimed call.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Seed of ids, lengths and draws.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl GenerateBench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let count = self.rows.unwrap_or(self.batch_size);
        at_least_one(&[("batch-size", self.batch_size), ("rows", count), ("steps", self.steps)])?;
        let options = self.placement.options()?;
        let policy = model::files(&self.model)?.language_model(options)?;
        let seed = Seed::new(self.seed);
        let prompts = self.prompt_len.of("prompt-len", count, seed)?;
        let limits = self.new_tokens.of("new-tokens", count, seed)?;
        let ask = |(id, (&length, &limit)): (u64, (&usize, &usize))| {
            let prompt = random_rows(1, length, policy.spec().vocab_size).remove(0);
            Ask { id, prompt, max_new_tokens: Some(limit) }
        };
        let asks = || (0..).zip(prompts.iter().zip(&limits)).map(ask).collect();
        let rows: Vec<Ask> = seeded(self.seed.cast_signed(), asks)?;
        let config = GenerationConfig {
            sampling: self.sampling.sampling(),
            repetition_penalty: self.sampling.repetition_penalty,
            eos: Eos::Ignored,
            batch_size: self.batch_size,
            ..GenerationConfig::default()
        };
        let tokens: usize = limits.iter().sum();
        let mut seconds = Vec::with_capacity(self.steps);
        let mut meter = Meter::default();
        for step in 0..=self.steps as u64 {
            let (start, before) = (Instant::now(), Work::so_far());
            respond(Weights::of(&policy), &rows, &config, Draw { seed, step }, Hooks::default())?;
            if step > 0 {
                seconds.push(start.elapsed().as_secs_f64());
                meter.add(before, start.elapsed().as_secs_f64());
            }
        }
        let second = median(seconds);
        let (rows, tokens) = (count as f64 / second, tokens as f64 / second);
        Measured::default()
            .value("sec_per_step", second)
            .value("phases", json!({ "generate": second }))
            .value("samples_per_s", rows)
            .value("tokens_per_s", tokens)
            .line("per call", format!("{second:.4} s"))
            .line("responses/s", format!("{rows:.1}"))
            .line("tokens/s", format!("{tokens:.0}"))
            .shares(&meter, policy.spec().kind, options.device)?
            .print(self.json, options.device)
    }
}
