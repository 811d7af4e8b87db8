//! The `rlaif` command: JSON Lines in and out, errors on standard error.
//!
//! Exit code 2 means bad input (a flag, a row, a file), 1 any other failure.

mod bench;
mod bench_dpo;
mod bench_generate;
mod bench_ppo;
mod bench_sft;
mod classifier;
mod dpo;
mod error;
mod eval;
mod generate;
mod inspect;
mod judge;
mod lengths;
mod log_probs;
mod model;
mod ppo;
mod report;
mod reward;
mod rows;
mod run_arguments;
mod score;
mod sft;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::CliError;

/// Reinforcement learning from AI and human feedback for language models.
#[derive(Debug, Parser)]
#[command(name = "rlaif", version, disable_help_subcommand = true, args_override_self = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints one JSON object on a model: architecture, sizes, special tokens, files.
    Inspect(inspect::Inspect),
    /// Log-probabilities and entropies of given responses, one row out for each row in.
    #[command(name = "logprobs")]
    LogProbs(log_probs::LogProbs),
    /// Responses to prompts, one row out for each row in.
    Generate(generate::Generate),
    /// Logits and probabilities of a sequence classifier or reward model.
    Score(score::Score),
    /// Scores responses with a judge or any other reward, one row out for each row in.
    Judge(judge::Judge),
    /// Fine-tunes a language model on responses, conversations or texts; writes a run folder.
    Sft(sft::Sft),
    /// Fits a classifier to labelled texts; writes a run folder.
    Classifier(classifier::ClassifierCommand),
    /// Fits a preference model, to be a reward, to pairs; writes a run folder.
    Reward(reward::Reward),
    /// Compares a tuned policy with its baseline on held-out prompts, and writes a report.
    Eval(eval::Eval),
    /// The report of a run again, or the trade-off between two metrics over several runs.
    Report(report::ReportCommand),
    /// Trains a language model by PPO on the scores of any reward; writes a run folder.
    Ppo(ppo::Ppo),
    /// Trains a language model on preferences without a reward model; writes a run folder.
    Dpo(dpo::Dpo),
    /// Times this machine on a model; random token ids of fixed length, no tokenizer needed.
    #[command(subcommand)]
    Bench(bench::Bench),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match rlaif_torch::init() {
        Ok(_) => run(&arguments.command),
        Err(source) => Err(CliError::from(source)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough (`| head`).
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.chain());
            ExitCode::from(error.code())
        }
    }
}

fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Inspect(command) => command.run(),
        Command::LogProbs(command) => command.run(),
        Command::Generate(command) => command.run(),
        Command::Score(command) => command.run(),
        Command::Judge(command) => command.run(),
        Command::Sft(command) => command.run(),
        Command::Classifier(command) => command.run(),
        Command::Reward(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Report(command) => command.run(),
        Command::Ppo(command) => command.run(),
        Command::Dpo(command) => command.run(),
        Command::Bench(command) => command.run(),
    }
}
