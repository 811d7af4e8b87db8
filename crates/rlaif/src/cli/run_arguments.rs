//! The flags of all training commands.

use std::path::PathBuf;

use clap::Args;
use rlaif_run::{Recipe, RunRequest, train};
use rlaif_torch::{
    TorchError,
    dist::{DistError, Launch},
};

use super::error::CliError;

/// The run file, and the folder of the run.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The run file, TOML; with --resume, the run's own by default.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The run folder; by default runs/NAME for a run file NAME.toml.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Continues the run in the folder, from its newest intact checkpoint.
    #[arg(long)]
    resume: bool,
    /// Sets a key of the run file: `--set train.steps=100`. May be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl RunArguments {
    /// Runs the training that the run file describes.
    pub(crate) fn train<R: Recipe>(&self) -> Result<(), CliError> {
        let request = RunRequest {
            config: self.config.clone(),
            out: self.out.clone(),
            resume: self.resume,
            set: self.set.clone(),
            launch: Launch::from_env().map_err(TorchError::from)?,
        };
        Ok(train::<R>(&request)?)
    }
}

/// Refuses a command in several processes: each would do the same, and write the same files.
pub(crate) fn one_process(command: &str) -> Result<(), CliError> {
    match Launch::from_env().map_err(TorchError::from)?.size {
        1 => Ok(()),
        size => {
            let what = format!("`rlaif {command}`");
            Err(TorchError::from(DistError::OneProcess { what, size }).into())
        }
    }
}
