//! The flags of commands that train nothing and have a run file.

use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use rlaif_run::{Work, WorkRequest};

use super::{error::CliError, kept::keeping, progress::bar, run_arguments::one_process};

/// The run file, and the place of the results.
#[derive(Debug, Args)]
pub(crate) struct WorkArguments {
    /// The run file, TOML.
    #[arg(long)]
    config: PathBuf,
    /// The file (candidates, label) or the folder (eval, exam) of the results. What has come is kept there
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
        one_process(W::COMMAND)?;
        let Self { config, out, set } = self;
        let request = WorkRequest { config: config.clone(), out: out.clone(), set: set.clone() };
        let open = request.open::<W>()?;
        let mut shown: Option<ProgressBar> = None;
        let summary = keeping(open.out.as_ref().map(|_| W::KEEPS), || {
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
        tell(&summary, open.out.as_deref())
    }
}
