//! `rlaif bench dpo`: seconds per optimizer step of DPO.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rlaif_dpo::PromptForward;
use rlaif_run::command::bench;

use super::{output::Activations, steps::TimedSteps};
use crate::cli::error::CliError;

/// Source of the reference's log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReferenceFrom {
    /// Computed in every step by a second model.
    Live,
    /// Computed before the timed steps, without a second model in memory.
    Cached,
}

/// Sharing of a pair's prompt computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PromptForwardName {
    Shared,
    Twice,
}

#[derive(Debug, Args)]
pub(crate) struct DpoBench {
    #[command(flatten)]
    timed: TimedSteps,
    /// Tokens per prompt.
    #[arg(long, default_value_t = 64)]
    prompt_len: usize,
    /// Tokens per response.
    #[arg(long, default_value_t = 64)]
    new_tokens: usize,
    /// Pairs in the order of training, instead of random ones: JSON Lines of prompt_ids, chosen_ids
    /// and rejected_ids.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Source of the reference's log-probabilities.
    #[arg(long, value_enum, default_value_t = ReferenceFrom::Live)]
    reference: ReferenceFrom,
    /// Sharing of a pair's prompt computation.
    #[arg(long, alias = "prompts", value_enum, default_value_t = PromptForwardName::Shared)]
    prompt_forward: PromptForwardName,
    /// Activations that a forward pass stores: keep, or recompute them in the backward pass (gradient
    /// checkpointing).
    #[arg(long, value_enum, default_value_t = Activations::Keep)]
    activations: Activations,
}

impl DpoBench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let bench = bench::DpoBench {
            timed: self.timed.steps(),
            prompt_len: self.prompt_len,
            new_tokens: self.new_tokens,
            input: self.input.clone(),
            reference: match self.reference {
                ReferenceFrom::Live => bench::ReferenceFrom::Live,
                ReferenceFrom::Cached => bench::ReferenceFrom::Cached,
            },
            prompt_forward: match self.prompt_forward {
                PromptForwardName::Shared => PromptForward::Shared,
                PromptForwardName::Twice => PromptForward::Twice,
            },
            activations: self.activations.into(),
        };
        self.timed.output.print(&bench.run()?)
    }
}
