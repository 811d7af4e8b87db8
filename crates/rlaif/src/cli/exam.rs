//! `rlaif exam`.

use std::path::{Path, PathBuf};

use clap::Args;
use rlaif_run::ExamFile;

use super::{error::CliError, kept::keeping, print::print};

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
        let folder = self.config.parent().unwrap_or(Path::new(""));
        let results = out.map(|_| "verdicts");
        let report = keeping(results, || config.run(folder, out.map(PathBuf::as_path)))?;
        print(format_args!("{}", report.to_terminal().trim_end()))?;
        if let Some(out) = out {
            print(format_args!("{}", out.join("exam.json").display()))?;
        }
        Ok(())
    }
}
