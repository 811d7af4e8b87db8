//! `rlaif candidates`.

use std::path::{Path, PathBuf};

use clap::Args;
use rlaif_core::say;
use rlaif_run::{CandidatesFile, CandidatesSummary};

use super::{error::CliError, kept::keeping, print::print};

#[derive(Debug, Args)]
pub(crate) struct Candidates {
    /// TOML that names the prompts and who writes; docs/feedback.md.
    #[arg(long)]
    config: PathBuf,
    /// The file of prompts with their responses. Responses are first written to OUT.unordered as
    /// they arrive; after an interruption, the same command continues. Failed ones are in OUT.missing,
    /// with the reasons.
    #[arg(long)]
    out: PathBuf,
}

impl Candidates {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let config = CandidatesFile::from_file(&self.config)?;
        let folder = self.config.parent().unwrap_or(Path::new(""));
        let summary = keeping(Some("responses"), || config.run(folder, &self.out))?;
        let CandidatesSummary { prompts, responses, equal, cut, missing, .. } = summary;
        say(format_args!(
            "{responses} responses to {prompts} prompts, {equal} more equal to others, {cut} cut short, \
             {missing} missing"
        ));
        if let Some(reason) = &summary.first_missing {
            say(format_args!("the first missing one: {reason}"));
        }
        if let Some(cost) = summary.cost {
            say(format_args!("cost of all responses {cost:.6}"));
        }
        print(format_args!("{}", self.out.display()))
    }
}
