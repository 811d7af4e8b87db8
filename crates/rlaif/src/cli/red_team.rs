//! `rlaif red-team`.

use std::path::{Path, PathBuf};

use clap::Args;
use rlaif_core::say;
use rlaif_run::{RedTeamFile, RedTeamSummary};

use super::{error::CliError, kept::keeping, print::print};

#[derive(Debug, Args)]
pub(crate) struct RedTeam {
    /// TOML that names the examples, the writer and the filter; docs/feedback.md.
    #[arg(long)]
    config: PathBuf,
    /// The file of prompts. Texts are first written to OUT.unordered as they arrive; after an
    /// interruption, the same command continues. Failed ones are in OUT.missing, with the reasons.
    #[arg(long)]
    out: PathBuf,
}

impl RedTeam {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let config = RedTeamFile::from_file(&self.config)?;
        let folder = self.config.parent().unwrap_or(Path::new(""));
        let summary = keeping(Some("texts"), || config.run(folder, &self.out))?;
        let RedTeamSummary { prompts, written, equal, filtered, missing, .. } = summary;
        say(format_args!(
            "{prompts} prompts, {written} of them written; {equal} equal to others, {filtered} below the \
             filter, {missing} missing"
        ));
        if let Some(reason) = &summary.first_missing {
            say(format_args!("the first missing one: {reason}"));
        }
        if let Some(cost) = summary.cost {
            say(format_args!("cost of all texts {cost:.6}"));
        }
        print(format_args!("{}", self.out.display()))
    }
}
