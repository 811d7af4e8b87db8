//! `rlaif import` and `rlaif export`.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{
    Args, Subcommand, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use rlaif_core::say;
use rlaif_models::GgufFormat;
use rlaif_run::{
    ImportTrl, TrlTrainer,
    command::{ExportGguf, ImportGguf},
};

use super::{
    error::CliError,
    model::{Dtype, ModelArguments},
};

#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(subcommand)]
    source: Source,
}

#[derive(Debug, Subcommand)]
enum Source {
    /// A model folder from a GGUF file of llama.cpp
    Gguf(Gguf),
    /// A run file from the configuration of one of TRL's scripts, or a model folder from a checkpoint of
    /// its PPO trainer
    Trl(Trl),
}

#[derive(Debug, Args)]
struct Gguf {
    /// A GGUF file of llama.cpp.
    file: PathBuf,
    /// The folder to write.
    #[arg(long)]
    out: PathBuf,
    /// Dtype of the written weights.
    #[arg(long, default_value = "bf16")]
    dtype: Dtype,
}

/// The trainers of TRL by their names, with the classes whose configurations are read.
fn trainers() -> impl TypedValueParser<Value = TrlTrainer> {
    let named = |trainer: TrlTrainer| PossibleValue::new(trainer.name()).help(trainer.class());
    PossibleValuesParser::new(TrlTrainer::ALL.map(named)).try_map(|name| {
        let mut all = TrlTrainer::ALL.into_iter();
        all.find(|trainer| trainer.name() == name).ok_or("not a trainer of TRL")
    })
}

#[derive(Debug, Args)]
struct Trl {
    /// The JSON or YAML of a script's configuration.
    config: PathBuf,
    /// TRL's trainer.
    #[arg(long, value_parser = trainers())]
    trainer: TrlTrainer,
    /// The run file to write.
    #[arg(long)]
    out: PathBuf,
    /// Number of processes of the script; TRL's batch sizes are those of one process.
    #[arg(long, default_value = "1")]
    processes: NonZeroUsize,
}

impl Import {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        match &self.source {
            Source::Gguf(Gguf { file, out, dtype }) => {
                let (file, dtype) = (file.clone(), (*dtype).into());
                ImportGguf { file, out: out.clone(), dtype }.run()?;
                say(format_args!("the model is in {}", out.display()));
                Ok(())
            }
            Source::Trl(command) => command.run(),
        }
    }
}

impl Trl {
    fn run(&self) -> Result<(), CliError> {
        let Self { config, trainer, out, processes } = self;
        let import = ImportTrl { trainer: *trainer, processes: *processes };
        let imported = import.read_file(config)?;
        imported.write(out)?;
        for (field, difference) in imported.differences() {
            say(format_args!("not as in TRL: `{field}`: {difference}"));
        }
        for (key, reason) in &imported.needed {
            say(format_args!("to be set: `{key}`: {reason}"));
        }
        let command = imported.trainer.command();
        say(format_args!("the run file is {0}: rlaif {command} --config {0}", out.display()));
        Ok(())
    }
}

/// Element type of the matrices.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    F32,
    F16,
    Bf16,
    /// 8 bits, with a scale for 32 numbers.
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<Format> for GgufFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::F32 => Self::F32,
            Format::F16 => Self::F16,
            Format::Bf16 => Self::Bf16,
            Format::Q8_0 => Self::Q8_0,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    model: ModelArguments,
    /// The file to write.
    #[arg(long)]
    out: PathBuf,
    /// Element type of the matrices in the file.
    #[arg(long, default_value = "f16")]
    format: Format,
}

impl Export {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let (model, out) = (self.model.choice(), self.out.clone());
        ExportGguf { model, out, format: self.format.into() }.run()?;
        say(format_args!("the model is in {}", self.out.display()));
        Ok(())
    }
}
