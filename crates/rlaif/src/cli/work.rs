//! The flags of commands that train nothing and have a run file.

use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use rlaif_run::{Work, WorkOut, WorkRequest};

use super::{error::CliError, kept::keeping, progress::bar, run_arguments::one_process};

/// The run file, and the place of the results.
#[derive(Debug, Args)]
pub(crate) struct WorkArguments {
    /// The run file, TOML.
    #[arg(long)]
    config: PathBuf,
    /// The file or, for eval and exam, the folder of the results. What has come is kept there
    /// or beside it, and after an interruption the same command continues.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Sets a key of the run file: `--set data.take=100`. May be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl WorkArguments {
    /// Does the work of the run file, and tells about its results.
    pub(crate) fn run<W: Work>(
        &self,
        tell: impl FnOnce(&W::Summary, Option<&Path>) -> Result<(), CliError>,
    ) -> Result<(), CliError>
    where
        CliError: From<W::Error>,
    {
        self.run_with::<W>(|_| Ok(()), tell)
    }

    /// As [`Self::run`], after other flags have changed the run file.
    pub(crate) fn run_with<W: Work>(
        &self,
        flags: impl FnOnce(&mut W) -> Result<(), CliError>,
        tell: impl FnOnce(&W::Summary, Option<&Path>) -> Result<(), CliError>,
    ) -> Result<(), CliError>
    where
        CliError: From<W::Error>,
    {
        one_process(W::COMMAND)?;
        let Self { config, out, set } = self;
        let request = WorkRequest { config: config.clone(), out: out.clone(), set: set.clone() };
        let mut open = request.open::<W>()?;
        flags(&mut open.config)?;
        let mut shown: Option<ProgressBar> = None;
        let summary = keeping(open.out.path().map(|_| W::KEEPS), || {
            open.run(&mut |at| {
                let bar = shown.get_or_insert_with(|| {
                    bar(Some(1), "{msg:30} {bar:30} {pos}/{len}  {elapsed}")
                });
                bar.set_length(at.total as u64);
                bar.set_position(at.done as u64);
                bar.set_message(at.stage.to_owned());
            })
        })?;
        if let Some(bar) = shown {
            bar.finish_and_clear();
        }
        tell(&summary, open.out.path())
    }
}
