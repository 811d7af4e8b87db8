//! The `rlaif` command: JSON Lines in and out, errors on standard error.
//!
//! Exit code 2 means bad input (a flag, a row, a file), 1 any other failure.

mod annotate;
mod bench;
mod candidates;
mod error;
mod eval;
mod exam;
mod generate;
mod import;
mod inspect;
mod judge;
mod kept;
mod label;
mod log_probs;
mod merge;
mod model;
mod new;
mod pipeline;
mod print;
mod progress;
mod prompt;
mod red_team;
mod report;
mod revise;
mod rows;
mod run_arguments;
mod schema;
mod score;
#[cfg(feature = "ui")]
mod ui;
mod verify;
mod work;

use std::{
    io::ErrorKind,
    process::{self, ExitCode},
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use rlaif_core::say;
use rlaif_run::{
    CandidatesFile, ClassifierFile, DistillFile, DpoFile, EvalFile, ExamFile, LabelFile, PpoFile,
    RedTeamFile, ReinforceFile, ReviseFile, RewardFile, SftFile,
};
use rlaif_torch::dist::DistError;

use error::CliError;
use run_arguments::RunArguments;
use work::WorkArguments;

/// Reinforcement learning from AI and human feedback for language models.
#[derive(Debug, Parser)]
#[command(
    name = "rlaif",
    version,
    disable_help_subcommand = true,
    args_override_self = true,
    after_help = "Exit codes: 2 for bad input (a flag, a row, a file), 130 for a run that was \
                  interrupted and continues with --resume, 1 for any other failure."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// The end of the help text of a command with a run file, with the smallest run file.
macro_rules! run_file {
    ($docs:literal, $($line:literal)+) => {
        concat!(
            "A run file with what has no default:\n\n",
            $("    ", $line, "\n",)+
            "\nMODEL is a folder or a hub id. Every key: docs/", $docs, ".md. --set takes keys by \
             their path, and the run's folder keeps the file with every default."
        )
    };
}

/// As [`run_file`], for a command that trains on prompts and a reward.
macro_rules! rl_file {
    ($docs:literal) => {
        run_file!($docs,
            "[model]"
            "path = \"MODEL\""
            "[data]"
            "prompts = \"rows.jsonl\"  # {\"prompt\": \"..\"}"
            "[reward]"
            "kind = \"classifier\"     # docs/rewards.md has the others"
            "preset = \"not-hate\""
        )
    };
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints one JSON object about a model: architecture, sizes, special tokens, files.
    Inspect(inspect::Inspect),
    /// Computes log-probabilities and entropies of given responses; writes one row for each input
    /// row.
    #[command(
        name = "logprobs",
        after_help = "A row in: {\"prompt\": \"..\", \"response\": \"..\"}, texts or messages, \
                      {\"messages\": [..]}, whose last turn is the response, or of ids \
                      {\"prompt_ids\": [..], \"response_ids\": [..]}, which are used as they are."
    )]
    LogProbs(log_probs::LogProbs),
    /// Generates responses to prompts; writes one row for each input row.
    #[command(
        after_help = "A row in: {\"prompt\": \"..\"}, {\"prompt_ids\": [..]} or {\"messages\": \
                            [{\"role\": \"user\", \"content\": \"..\"}]} for the chat template, with a \
                            \"max_new_tokens\" of its own if it likes. More: docs/generation.md."
    )]
    Generate(generate::Generate),
    /// Computes logits and probabilities of a sequence classifier or reward model.
    #[command(
        after_help = "A row in: {\"text\": \"..\"}, with a \"text_pair\" for pairs, or {\"ids\": \
                            [..]}; for a reward model also {\"prompt\": .., \"response\": ..}, \
                            texts or messages, or {\"messages\": [..]}."
    )]
    Score(score::Score),
    /// Checks that a model's numbers on this machine depend on its input alone: not on batch, padding,
    /// packing or order, equal in sampler and trainer, the same in repeated and resumed runs.
    #[command(after_help = "Exit code 1 if a check does not hold. Each check: docs/models.md.")]
    Verify(verify::Verify),
    /// Turns the files of other programs into those of rlaif: llama.cpp's models, TRL's configurations.
    Import(import::Import),
    /// Writes a language model and its tokenizer as a file of llama.cpp (GGUF); an adapter is merged first.
    Export(import::Export),
    /// Merges a LoRA adapter into the weights of its base, and writes a complete model.
    Merge(merge::Merge),
    /// Scores responses with a judge or any other reward; writes one row for each input row.
    #[command(
        after_help = "A row in: {\"prompt\": \"..\", \"response\": \"..\"}, texts or messages, with \
                            \"reference\" and \"metadata\" where there are any; or \
                            {\"messages\": [..]}, whose last turn is judged."
    )]
    Judge(judge::Judge),
    /// Has policies and APIs write several responses to each prompt.
    #[command(after_help = "A run file with what has no default:\n\n    \
        [data]\n    file = \"prompts.jsonl\"      # {\"prompt\": \"..\"}\n    \
        [[writers]]\n    responses = 4\n    sampling = { temperature = 1.0 }\n    \
        api = { kind = \"policy\", model = \"MODEL\" }\n\nResponses are first in OUT.unordered, and \
        failed ones in OUT.missing, with the reasons.\nEvery key: docs/feedback.md.")]
    Candidates(WorkArguments),
    /// Has a model write prompts after examples, beside imported ones, and keeps those that a reward lets
    /// through.
    #[command(after_help = "A run file with what has no default:\n\n    \
        new_prompts = 200\n    \
        [data]\n    file = \"examples.jsonl\"     # {\"prompt\": \"..\"}\n    \
        [writer]\n    api = { kind = \"policy\", model = \"MODEL\" }\n\nEvery key: docs/feedback.md.")]
    RedTeam(WorkArguments),
    /// Has a model criticise and revise responses by the principles of a constitution; writes rows to train
    /// on.
    #[command(after_help = "A run file with what has no default:\n\n    \
        constitution = [\"constitution.toml\"]\n    \
        [data]\n    file = \"prompts.jsonl\"      # {\"prompt\": \"..\"}, also with a \"response\"\n    \
        [writer]\n    api = { kind = \"policy\", model = \"MODEL\" }\n\nEvery key: docs/feedback.md.")]
    Revise(WorkArguments),
    /// Labels pairs of responses by judges and rewards; writes preference pairs with soft labels.
    #[command(after_help = "A run file with what has no default:\n\n    \
        [data]\n    file = \"candidates.jsonl\"   # {\"prompt\": \"..\", \"responses\": [\"..\", \"..\"]}\n    \
        [judge.api]\n    kind = \"anthropic\"         # docs/feedback.md has the others\n    \
        model = \"MODEL\"\n    [[facets]]\n    facet = \"helpful\"\n\nAnswers are first in OUT.unordered, and pairs \
        without a label in OUT.missing.\nEvery key: docs/feedback.md.")]
    Label(WorkArguments),
    /// Fine-tunes a language model on responses, conversations or texts; writes a run folder.
    #[command(after_help = run_file!("training",
        "[model]"
        "path = \"MODEL\""
        "[data]"
        "train = \"rows.jsonl\"    # {\"prompt\": \"..\", \"response\": \"..\"}"
    ))]
    Sft(RunArguments),
    /// Trains a classifier on labelled texts; writes a run folder.
    #[command(after_help = run_file!("training",
        "labels = [\"nothate\", \"hate\"]"
        "[model]"
        "path = \"MODEL\""
        "[data]"
        "train = \"rows.jsonl\"    # {\"text\": \"..\", \"label\": \"hate\"}"
    ))]
    Classifier(RunArguments),
    /// Trains a preference model on pairs, for use as a reward; writes a run folder.
    #[command(after_help = run_file!("training",
        "[model]"
        "path = \"MODEL\""
        "[data]"
        "train = \"rows.jsonl\"    # {\"prompt\": \"..\", \"chosen\": \"..\", \"rejected\": \"..\"}"
    ))]
    Reward(RunArguments),
    /// Compares a tuned policy with its baseline on held-out prompts, and writes a report.
    #[command(after_help = "A run file with what has no default:\n\n    \
        metrics = [{ kind = \"length\" }]\n    \
        [baseline]\n    model = \"MODEL\"\n    [tuned]\n    model = \"MODEL\"\n    \
        [data]\n    corpus = \"builtin\"\n\n\
        MODEL is a folder or a hub id. Every key: docs/evaluation.md.")]
    Eval(WorkArguments),
    /// Examines a reward model or a judge on RewardBench, RewardBench 2, JudgeBench, HHH or any file of
    /// preference pairs.
    #[command(after_help = "A run file with what has no default:\n\n    \
        [data]\n    file = \"pairs.jsonl\"    # {\"prompt\": \"..\", \"chosen\": \"..\", \"rejected\": \"..\"}\n    \
        [reward]\n    kind = \"classifier\"     # docs/rewards.md has the others\n    \
        model = \"MODEL\"\n\nEvery key: docs/feedback.md.")]
    Exam(WorkArguments),
    /// Has people compare responses: items, agreement, labels.
    #[command(subcommand)]
    Annotate(annotate::Annotate),
    /// Serves a page on this machine, on which people compare responses and runs are watched.
    #[cfg(feature = "ui")]
    Ui(ui::Ui),
    /// Writes the report of a run again, or the trade-off between two metrics over several runs.
    Report(report::ReportCommand),
    /// Trains a language model by PPO on the scores of any reward; writes a run folder.
    #[command(after_help = rl_file!("ppo"))]
    Ppo(RunArguments),
    /// Trains a language model by GRPO or another algorithm without a value function; writes a run
    /// folder.
    #[command(after_help = rl_file!("reinforce"))]
    Reinforce(RunArguments),
    /// Trains a language model on its own responses towards a teacher's distributions; writes a run
    /// folder.
    #[command(after_help = run_file!("distill",
        "teacher = \"TEACHER\"     # a model of the same tokenizer"
        "[model]"
        "path = \"MODEL\""
        "[data]"
        "prompts = \"rows.jsonl\"  # {\"prompt\": \"..\"}"
    ))]
    Distill(RunArguments),
    /// Trains a language model on preferences without a reward model; writes a run folder.
    #[command(after_help = run_file!("dpo",
        "[model]"
        "path = \"MODEL\""
        "[data]"
        "train = \"rows.jsonl\"    # {\"prompt\": \"..\", \"chosen\": \"..\", \"rejected\": \"..\"}"
    ))]
    Dpo(RunArguments),
    /// Runs several commands, the outputs of one being the inputs of others; writes one report.
    #[command(after_help = "A pipeline:\n\n    \
        [stages.sft]\n    command = \"sft\"\n    model.path = \"MODEL\"\n    data.train = \"rows.jsonl\"\n    \
        [stages.answers]\n    command = \"candidates\"\n    data.file = \"prompts.jsonl\"\n    \
        writers = [{ api = { kind = \"policy\", model = \"@sft\" } }]\n\n\
        A stage has the keys of its command's run file. docs/pipeline.md has the outputs of each.")]
    Pipeline(pipeline::Pipeline),
    /// Prints the JSON Schema of a command's file, for editors that complete TOML.
    #[command(
        after_help = "With Taplo (Even Better TOML), the first line of a run file names it:\n\n    \
        #:schema ./ppo.schema.json\n\nand `rlaif schema ppo > ppo.schema.json` writes it."
    )]
    Schema(schema::SchemaCommand),
    /// Writes a project that depends on rlaif: this command with a reward of your own, tests, and a run file.
    #[command(after_help = "docs/extending.md has the files of a project.")]
    New(new::New),
    /// Measures the speed of this machine on a model, with random token ids of fixed length; no
    /// tokenizer needed.
    #[command(subcommand)]
    Bench(bench::Bench),
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    let arguments = parse();
    let result = match rlaif_torch::init() {
        Ok(_) => run(&arguments.command),
        Err(source) => Err(CliError::from(source)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the output has closed it (`| head`).
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            if DistError::in_chain(&error).is_none_or(DistError::is_to_be_told) {
                say(format_args!("error: {}", error.chain()));
            }
            ExitCode::from(error.code())
        }
    }
}

fn parse() -> Arguments {
    /// For a flag that takes no negative numbers, one is refused as a value of the flag.
    fn with_negative_numbers(command: clap::Command) -> clap::Command {
        command.allow_negative_numbers(true).mut_subcommands(with_negative_numbers)
    }
    let mut command = with_negative_numbers(Arguments::command());
    for name in rlaif_run::commands_with_files() {
        command = command.mut_subcommand(name, |command| with_keys(command, name));
    }
    let matches = command.try_get_matches().unwrap_or_else(|error| explain(&error));
    Arguments::from_arg_matches(&matches).unwrap_or_else(|error| explain(&error))
}

/// Prints help, the version or what is wrong with the arguments, and ends the process. Help that standard output does
/// not take is a failure, unless its reader has closed it (`| head`).
fn explain(error: &clap::Error) -> ! {
    let code = match error.print() {
        Err(source) if !error.use_stderr() && source.kind() != ErrorKind::BrokenPipe => {
            say(format_args!("error: standard output: {source}"));
            1
        }
        Ok(()) | Err(_) => error.exit_code(),
    };
    process::exit(code)
}

/// The command with all keys of its file at the end of its long help.
fn with_keys(command: clap::Command, name: &str) -> clap::Command {
    let lines = rlaif_run::key_lines(name);
    if lines.is_empty() {
        return command;
    }
    let short = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    command.after_long_help(format!("{short}\n\nEvery key, with its default:\n\n{lines}"))
}

fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Inspect(command) => command.run(),
        Command::LogProbs(command) => command.run(),
        Command::Generate(command) => command.run(),
        Command::Score(command) => command.run(),
        Command::Import(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Merge(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Judge(command) => command.run(),
        Command::Candidates(command) => command.run::<CandidatesFile>(candidates::tell),
        Command::Label(command) => command.run::<LabelFile>(label::tell),
        Command::Revise(command) => command.run::<ReviseFile>(revise::tell),
        Command::RedTeam(command) => command.run::<RedTeamFile>(red_team::tell),
        Command::Sft(command) => command.train::<SftFile>(),
        Command::Classifier(command) => command.train::<ClassifierFile>(),
        Command::Reward(command) => command.train::<RewardFile>(),
        Command::Eval(command) => command.run::<EvalFile>(eval::tell),
        Command::Exam(command) => command.run::<ExamFile>(exam::tell),
        Command::Annotate(command) => command.run(),
        #[cfg(feature = "ui")]
        Command::Ui(command) => command.run(),
        Command::Report(command) => command.run(),
        Command::Ppo(command) => command.train::<PpoFile>(),
        Command::Reinforce(command) => command.train::<ReinforceFile>(),
        Command::Distill(command) => command.train::<DistillFile>(),
        Command::Dpo(command) => command.train::<DpoFile>(),
        Command::Pipeline(command) => command.run(),
        Command::Schema(command) => command.run(),
        Command::New(command) => command.run(),
        Command::Bench(command) => command.run(),
    }
}
