//! `rlaif exam`.

use std::path::{Path, PathBuf};

use clap::Args;
use rlaif_core::{Interrupted, say};
use rlaif_run::{ExamFile, RunError};
use rlaif_train::Interrupt;

use super::{error::CliError, print::print};

#[derive(Debug, Args)]
pub(crate) struct Exam {
    /// TOML that names the questions and the reward; docs/feedback.md.
    #[arg(long)]
    config: PathBuf,
    /// Folder of verdicts and result; existing verdicts in it are reused. Overrides `out`.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Exam {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let config = ExamFile::from_file(&self.config)?;
        let out = self.out.as_ref().or(config.out.as_ref());
        Interrupt::install().map_err(RunError::from)?;
        let folder = self.config.parent().unwrap_or(Path::new(""));
        let report = config.run(folder, out.map(PathBuf::as_path)).inspect_err(|error| {
            if out.is_some() && Interrupted::ended(error) {
                say("the verdicts so far are kept; run the same command again to continue");
            }
        })?;
        print(format_args!("{}", report.to_terminal().trim_end()))?;
        if let Some(out) = out {
            print(format_args!("{}", out.join("exam.json").display()))?;
        }
        Ok(())
    }
}
