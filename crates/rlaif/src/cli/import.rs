//! `rlaif import` and `rlaif export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rlaif_core::say;
use rlaif_models::GgufFormat;
use rlaif_run::command::{ExportGguf, ImportGguf};

use super::{
    error::CliError,
    model::{Dtype, ModelArguments},
};

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// A GGUF file of llama.cpp.
    file: PathBuf,
    /// The folder to write.
    #[arg(long)]
    out: PathBuf,
    /// Dtype of the written weights.
    #[arg(long, default_value = "bf16")]
    dtype: Dtype,
}

impl Import {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let Self { file, out, dtype } = self;
        ImportGguf { file: file.clone(), out: out.clone(), dtype: (*dtype).into() }.run()?;
        say(format_args!("the model is in {}", out.display()));
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
