//! The flags of every command that trains.

use std::path::PathBuf;

use clap::Args;
use rlaif_train::{Ending, FitConfig, Interrupt, RunFolder, Terminal};

use super::error::CliError;
use crate::run::{OpenRun, RunError, RunFile, RunRequest};

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
    pub(crate) fn open<T: RunFile>(&self) -> Result<OpenRun<T>, RunError> {
        let request = RunRequest {
            config: self.config.clone(),
            out: self.out.clone(),
            resume: self.resume,
            set: self.set.clone(),
        };
        request.open()
    }
}

/// Shows progress with these metrics.
pub(crate) fn show(run: &mut RunFolder, total: u64, done: u64, metrics: &[&str]) {
    run.show(Terminal::new(total, done, metrics.iter().copied()));
}

/// True for a run whose result is to be written; for one that was interrupted, an error that says
/// how to go on.
pub(crate) fn ended<T: RunFile>(
    open: &OpenRun<T>,
    run: &mut RunFolder,
    ending: Ending,
) -> Result<bool, CliError> {
    if ending != Ending::Interrupted {
        return Ok(true);
    }
    run.note("interrupted").map_err(RunError::from)?;
    Err(CliError::Interrupted { how: open.how_to_go_on(T::COMMAND) })
}

/// Ctrl-C for the run.
pub(crate) fn interrupt() -> Result<Interrupt, CliError> {
    Ok(Interrupt::install().map_err(RunError::from)?)
}

/// Rows that `keep` has something of, with their records, in order.
pub(crate) fn present<R, T>(records: Vec<R>, rows: Vec<Option<T>>) -> (Vec<R>, Vec<T>) {
    records.into_iter().zip(rows).filter_map(|(record, row)| Some((record, row?))).unzip()
}

/// The length of the run.
pub(crate) fn total_steps(train: &FitConfig, rows: usize) -> Result<u64, RunError> {
    if rows == 0 {
        return Err(RunError::Setting {
            key: "data.train",
            problem: "no row has anything to learn within data.max_tokens".to_owned(),
        });
    }
    Ok(train.total_steps(rows)?)
}
