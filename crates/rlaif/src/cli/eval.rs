//! `rlaif eval`.

use std::path::{Path, PathBuf};

use clap::Args;
use rlaif_core::say;
use rlaif_run::EvalFile;

use super::{error::CliError, print::print, progress::bar};

#[derive(Debug, Args)]
pub(crate) struct Eval {
    /// TOML that names the two policies, the prompts and the metrics; docs/evaluation.md.
    #[arg(long)]
    config: PathBuf,
    /// Folder of report, responses and scores; existing results in it are reused. Overrides `out`.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Eval {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let config = EvalFile::from_file(&self.config)?;
        let out = self.out.as_ref().or(config.out.as_ref()).ok_or_else(|| {
            let expected = "the folder of the report, here or as `out` in the configuration";
            CliError::flag("out", "missing", expected)
        })?;
        say(format_args!("{}", config.about_prompts()?));
        let bar = bar(Some(1), "{msg:30} {bar:30} {pos}/{len}  {elapsed}");
        let report = config.run(self.config.parent().unwrap_or(Path::new("")), out, |at| {
            bar.set_length(at.total as u64);
            bar.set_position(at.done as u64);
            bar.set_message(at.stage.to_owned());
        })?;
        bar.finish_and_clear();
        print(format_args!("{}\n{}", report.to_terminal(), out.join("report.html").display()))
    }
}
