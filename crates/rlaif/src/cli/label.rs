//! `rlaif label`.

use std::path::{Path, PathBuf};

use clap::Args;
use rlaif_core::say;
use rlaif_run::{LabelFile, LabelSummary};

use super::{error::CliError, kept::keeping, print::print};

#[derive(Debug, Args)]
pub(crate) struct Label {
    /// TOML that names the pairs, the judge and the facets; docs/feedback.md.
    #[arg(long)]
    config: PathBuf,
    /// The file of labelled pairs. Answers are in OUT.unordered as they come, and the same command goes
    /// on after an interruption; pairs without a label are in OUT.missing.
    #[arg(long)]
    out: PathBuf,
}

impl Label {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let config = LabelFile::from_file(&self.config)?;
        let folder = self.config.parent().unwrap_or(Path::new(""));
        let summary = keeping(Some("answers"), || config.run(folder, &self.out))?;
        tell(&summary);
        print(format_args!("{}", self.out.display()))
    }
}

fn tell(summary: &LabelSummary) {
    let LabelSummary { pairs, labelled, ties, missing, first_missing, estimate, .. } = summary;
    say(format_args!("{labelled} labels of {pairs} pairs, {ties} ties, {missing} without a label"));
    if let Some(reason) = first_missing {
        say(format_args!("the first without a label: {reason}"));
    }
    if *estimate {
        say("labels are estimates: the judge gives no probabilities");
    }
    for (facet, report) in &summary.facets {
        let habits = &report.habits;
        if let Some(bias) = habits.position_bias {
            let interval = bias.ci95.map_or_else(String::new, |ci| {
                format!(" (95 % interval {:+.3} to {:+.3})", ci.low, ci.high)
            });
            say(format_args!("{facet}: position bias {:+.3} nats{interval}", bias.nats));
        }
        if let (Some(flip), Some(first)) = (habits.position_flip, habits.first_wins) {
            say(format_args!(
                "{facet}: {:.1} % of pairs flip with the order, the first wins {:.1} %",
                100. * flip.share,
                100. * first.share
            ));
        }
        if report.one_order > 0 {
            say(format_args!(
                "{facet}: {} pairs have an answer in one order only",
                report.one_order
            ));
        }
        if summary.has_preferences {
            let (low, high) = (100. * report.ci95.low, 100. * report.ci95.high);
            say(format_args!(
                "{facet}: agrees with {:.1} % of the file's preferences (95 % interval {low:.1} to \
                 {high:.1} %)",
                100. * report.grade
            ));
        }
        if habits.always_one_position {
            say(format_args!(
                "{facet}: every verdict of the judge is for one and the same position: they say nothing"
            ));
        }
    }
    if let Some(cost) = summary.cost {
        say(format_args!("cost of all answers {cost:.6}"));
    }
    for (name, value) in &summary.usage {
        say(format_args!("{name} {value}"));
    }
}
