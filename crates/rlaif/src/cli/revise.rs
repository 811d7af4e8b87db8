//! `rlaif revise`.

use std::path::{Path, PathBuf};

use clap::Args;
use rlaif_core::say;
use rlaif_run::{ReviseFile, ReviseSummary};

use super::{error::CliError, kept::keeping, print::print};

#[derive(Debug, Args)]
pub(crate) struct Revise {
    /// TOML that names the responses, the constitution and who writes; docs/feedback.md.
    #[arg(long)]
    config: PathBuf,
    /// The file of revisions. Texts are first written to OUT.unordered as they arrive; after an
    /// interruption, the same command continues. Failed ones are in OUT.missing, with the reasons.
    #[arg(long)]
    out: PathBuf,
}

impl Revise {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let config = ReviseFile::from_file(&self.config)?;
        let folder = self.config.parent().unwrap_or(Path::new(""));
        let summary = keeping(Some("texts"), || config.run(folder, &self.out))?;
        tell(&summary);
        print(format_args!("{}", self.out.display()))
    }
}

fn tell(summary: &ReviseSummary) {
    let ReviseSummary { responses, revisions, unchanged, missing, first_missing, .. } = summary;
    say(format_args!(
        "{revisions} revisions of {responses} responses, {unchanged} without a change, {missing} \
         responses without all their revisions"
    ));
    if let Some(reason) = first_missing {
        say(format_args!("the first missing one: {reason}"));
    }
    for (round, measures) in summary.rounds.iter().enumerate() {
        let name = if round == 0 { "first".to_owned() } else { format!("round {round}") };
        let harmlessness = measures.harmlessness;
        let harmlessness =
            harmlessness.map_or_else(String::new, |mean| format!("harmlessness {mean:.3}, "));
        say(format_args!(
            "{name}: {harmlessness}refusals {:.1} %, evasions {:.1} %, {:.1} words",
            100. * measures.replies.refusals,
            100. * measures.replies.evasions,
            measures.words
        ));
    }
    if let Some(cost) = summary.cost {
        say(format_args!("cost of all texts {cost:.6}"));
    }
}
