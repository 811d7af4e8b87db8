//! `rlaif bench forward`.

use clap::Args;
use rlaif_run::command::bench;

use super::output::Output;
use crate::cli::{error::CliError, model::ModelArguments};

#[derive(Debug, Args)]
pub(crate) struct ForwardBench {
    #[command(flatten)]
    model: ModelArguments,
    /// Rows.
    #[arg(long, alias = "batch", default_value_t = 8)]
    batch_size: usize,
    /// Tokens per prompt; for a classifier, per sequence.
    #[arg(long, default_value_t = 128)]
    prompt_len: usize,
    /// Tokens per response; not used by classifiers.
    #[arg(long, alias = "response-len", default_value_t = 32)]
    new_tokens: usize,
    /// Timed passes of each kind, after one untimed pass.
    #[arg(long, alias = "repeats", default_value_t = 5)]
    steps: usize,
    /// Seed of the token ids.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    output: Output,
}

impl ForwardBench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let bench = bench::ForwardBench {
            model: self.model.choice(),
            batch_size: self.batch_size,
            prompt_len: self.prompt_len,
            new_tokens: self.new_tokens,
            steps: self.steps,
            seed: self.seed,
        };
        self.output.print(&bench.run()?)
    }
}
