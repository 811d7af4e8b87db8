//! `rlaif bench`: speed of this machine on a model, with random token ids of fixed length.

mod dpo;
mod forward;
mod generate;
mod ppo;
mod reinforce;
mod sft;
mod steps;

use clap::{Args, Subcommand, ValueEnum};
use rlaif_run::command::bench::Measured;

use super::{error::CliError, print::print};

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Forward, and forward with backward: the log-probs of random responses to random prompts, or
    /// a classifier's cross-entropy on random labels.
    Forward(forward::ForwardBench),
    /// One optimizer step of DPO on pairs.
    Dpo(dpo::DpoBench),
    /// Optimizer steps of supervised fine-tuning.
    Sft(sft::SftBench),
    /// Steps of PPO: generation, scoring, and the update.
    Ppo(ppo::PpoBench),
    /// Steps of GRPO and its family: generation of groups, scoring, and the update.
    Reinforce(reinforce::ReinforceBench),
    /// Generation: responses of fixed length to random prompts, sampled from the whole vocabulary.
    Generate(generate::GenerateBench),
}

impl Bench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        match self {
            Self::Forward(bench) => bench.run(),
            Self::Dpo(bench) => bench.run(),
            Self::Sft(bench) => bench.run(),
            Self::Ppo(bench) => bench.run(),
            Self::Reinforce(bench) => bench.run(),
            Self::Generate(bench) => bench.run(),
        }
    }
}

/// The form of a bench's result.
#[derive(Debug, Args)]
struct Output {
    /// Prints one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl Output {
    fn print(&self, measured: &Measured) -> Result<(), CliError> {
        if self.json { print(measured.to_json()) } else { print(measured.to_text()) }
    }
}

/// Activations of `--activations`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Activations {
    Keep,
    Recompute,
}

impl From<Activations> for rlaif_lm::Activations {
    fn from(activations: Activations) -> Self {
        match activations {
            Activations::Keep => Self::Keep,
            Activations::Recompute => Self::Recompute,
        }
    }
}
