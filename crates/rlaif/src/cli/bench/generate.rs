//! `rlaif bench generate`.

use clap::Args;
use rlaif_run::command::bench::{self, BenchLengths};

use super::output::Output;
use crate::cli::{error::CliError, generate::SamplingArguments, model::ModelArguments};

#[derive(Debug, Args)]
pub(crate) struct GenerateBench {
    #[command(flatten)]
    model: ModelArguments,
    /// Rows decoded together.
    #[arg(long, alias = "batch", default_value_t = 16)]
    batch_size: usize,
    /// Prompts of one call; by default, as many as are decoded together.
    #[arg(long)]
    rows: Option<usize>,
    /// Lengths of the prompts in tokens: one length, one for each row (64,101,..) or a range
    /// (8-256).
    #[arg(long, default_value = "96")]
    prompt_len: BenchLengths,
    /// Lengths of the responses in tokens, in the same format; end of sequence is ignored.
    #[arg(long, default_value = "32")]
    new_tokens: BenchLengths,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Timed calls, after one untimed call.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Seed of ids, lengths and draws.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    output: Output,
}

impl GenerateBench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let bench = bench::GenerateBench {
            model: self.model.choice(),
            batch_size: self.batch_size,
            rows: self.rows,
            prompt_len: self.prompt_len.clone(),
            new_tokens: self.new_tokens.clone(),
            sampling: self.sampling.sampling(),
            repetition_penalty: self.sampling.repetition_penalty,
            steps: self.steps,
            seed: self.seed,
        };
        self.output.print(&bench.run()?)
    }
}
