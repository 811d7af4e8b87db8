//! Flags shared by the benches of training.

use std::num::NonZeroU32;

use clap::Args;
use rlaif_run::command::bench::{self, BenchLengths};

use super::output::{Activations, Output};
use crate::cli::model::ModelArguments;

/// The settings of a bench of optimizer steps on rows of ids.
#[derive(Debug, Args)]
pub(super) struct TimedSteps {
    #[command(flatten)]
    model: ModelArguments,
    /// Rows per optimizer step.
    #[arg(long, alias = "batch", default_value_t = 8)]
    batch_size: usize,
    /// Rows per forward and backward pass; 0 for the whole batch.
    #[arg(long, alias = "minibatch", default_value_t = 0)]
    microbatch_size: usize,
    /// Number of timed steps, after one untimed step.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Seed of the token ids.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    pub(super) output: Output,
}

impl TimedSteps {
    /// The library's settings.
    pub(super) fn steps(&self) -> bench::TimedSteps {
        bench::TimedSteps {
            model: self.model.choice(),
            batch_size: self.batch_size,
            microbatch_size: self.microbatch_size,
            steps: self.steps,
            seed: self.seed,
        }
    }
}

/// The settings of a bench of steps with sampled responses.
#[derive(Debug, Args)]
pub(super) struct RlSteps {
    #[command(flatten)]
    model: ModelArguments,
    /// Responses per step.
    #[arg(long, alias = "batch", default_value_t = 16)]
    batch_size: usize,
    /// Responses per forward and backward pass; 0 for the whole minibatch.
    #[arg(long, alias = "microbatch", default_value_t = 0)]
    microbatch_size: usize,
    /// Lengths of the prompts in tokens: one length, one for each prompt (64,101,..) or a range
    /// (8-256).
    #[arg(long, default_value = "64-128")]
    prompt_len: BenchLengths,
    /// Tokens per response; end of sequence is ignored.
    #[arg(long, default_value_t = 32)]
    new_tokens: usize,
    /// Timed steps, after one untimed step.
    #[arg(long, default_value_t = 2)]
    steps: u64,
    /// Trains LoRA adapters of this rank on every linear layer, with the adapter-free policy as the
    /// reference. By default, all weights are trained, with a copy as the reference.
    #[arg(long)]
    lora: Option<NonZeroU32>,
    /// Activations that a forward pass stores: keep, or recompute them in the backward pass (gradient
    /// checkpointing).
    #[arg(long, value_enum, default_value_t = Activations::Keep)]
    activations: Activations,
    /// Seed of ids, lengths and draws.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    pub(super) output: Output,
}

impl RlSteps {
    /// The library's settings.
    pub(super) fn steps(&self) -> bench::RlSteps {
        bench::RlSteps {
            model: self.model.choice(),
            batch_size: self.batch_size,
            microbatch_size: self.microbatch_size,
            prompt_len: self.prompt_len.clone(),
            new_tokens: self.new_tokens,
            steps: self.steps,
            lora: self.lora,
            activations: self.activations.into(),
            seed: self.seed,
        }
    }
}
