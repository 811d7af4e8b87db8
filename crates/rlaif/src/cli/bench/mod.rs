//! `rlaif bench`: speed of this machine on a model, with random token ids of fixed length.

mod dpo;
mod forward;
mod generate;
mod output;
mod ppo;
mod reinforce;
mod sft;
mod steps;

use clap::Subcommand;

use super::error::CliError;

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
