//! `rlaif bench sft`: optimizer steps of supervised fine-tuning.

use std::path::PathBuf;

use clap::Args;
use rlaif_run::command::bench;
use rlaif_train::Batching;

use super::steps::TimedSteps;
use crate::cli::error::CliError;

#[derive(Debug, Args)]
pub(crate) struct SftBench {
    #[command(flatten)]
    timed: TimedSteps,
    /// Tokens per prompt.
    #[arg(long, default_value_t = 1)]
    prompt_len: usize,
    /// Tokens per response, all of which are learned.
    #[arg(long, default_value_t = 127)]
    new_tokens: usize,
    /// Rows to use instead of random ones: JSON Lines of {"prompt_ids": [..], "response_ids":
    /// [..]}, one batch per step.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Grouping of rows into forward passes.
    #[arg(long, default_value = "length", value_parser = parse_batching)]
    batching: Batching,
    /// Learning rate.
    #[arg(long, default_value_t = 1e-5)]
    lr: f64,
}

fn parse_batching(name: &str) -> Result<Batching, String> {
    serde_json::from_value(name.into()).map_err(|_| "expected padded, length or packed".to_owned())
}

impl SftBench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let bench = bench::SftBench {
            timed: self.timed.steps(),
            prompt_len: self.prompt_len,
            new_tokens: self.new_tokens,
            input: self.input.clone(),
            batching: self.batching,
            lr: self.lr,
        };
        self.timed.output.print(&bench.run()?)
    }
}
