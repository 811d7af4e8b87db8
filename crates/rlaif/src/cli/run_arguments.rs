//! The flags of every command that trains.

use std::path::PathBuf;

use clap::Args;
use rlaif_run::{Recipe, RunRequest, train};

use super::error::CliError;

/// Which run, and where.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The run file, TOML; with --resume that of the run is taken.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The run folder; runs/NAME for a run file NAME.toml if not given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Goes on with the run in the folder, from its newest checkpoint that is whole.
    #[arg(long)]
    resume: bool,
    /// Sets a key of the run file: `--set train.steps=100`. May be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl RunArguments {
    /// Trains as the run file says.
    pub(crate) fn train<R: Recipe>(&self) -> Result<(), CliError> {
        let request = RunRequest {
            config: self.config.clone(),
            out: self.out.clone(),
            resume: self.resume,
            set: self.set.clone(),
        };
        Ok(train::<R>(&request)?)
    }
}
