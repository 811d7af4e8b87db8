//! `rlaif report`.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use clap::Args;
use rlaif_eval::{Repeats, Report, TradeOff};

use super::{error::CliError, eval::print};
use crate::evaluate::tell_of_training;

#[derive(Debug, Args)]
pub(crate) struct ReportCommand {
    /// Folders with a report.json, as `rlaif eval` and the trainers leave them. One: its report again,
    /// with what the folder says of training. Several: how they differ from run to run.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Two metrics, say `toxicity,helpfulness`: of several runs the trade-off between the two.
    #[arg(long, value_delimiter = ',')]
    metrics: Vec<String>,
    /// Folder for what is said of several runs; the current one if not given.
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

impl ReportCommand {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        self.check_twice()?;
        let mut reports = Vec::new();
        for folder in &self.runs {
            let mut report = Report::read(&folder.join("report.json"))?;
            tell_of_training(&mut report.details, folder)?;
            reports.push((label(folder), report));
        }
        if let [(_, report)] = reports.as_slice() {
            report.write(&self.runs[0])?;
            let page = self.runs[0].join("report.html");
            return print(&format!("{}\n{}\n", report.to_terminal(), page.display()));
        }
        let labelled: Vec<(String, &Report)> =
            reports.iter().map(|(label, report)| (label.clone(), report)).collect();
        let (text, page) = match self.metrics.as_slice() {
            [] => {
                let repeats = Repeats::of_reports(&labelled)?;
                repeats.write(&self.out)?;
                (repeats.to_terminal(), "runs.html")
            }
            [first, second] => {
                let trade_off = TradeOff::of_reports(&labelled, first, second)?;
                trade_off.write(&self.out)?;
                (trade_off.to_terminal(), "tradeoff.html")
            }
            other => {
                return Err(CliError::Flag {
                    flag: "metrics",
                    found: other.join(","),
                    expected: "two names, separated by a comma, for the trade-off of several runs",
                });
            }
        };
        print(&format!("{text}\n{}\n", self.out.join(page).display()))
    }
}

impl ReportCommand {
    /// One run counted twice would make several runs look more alike than they are.
    fn check_twice(&self) -> Result<(), CliError> {
        let mut known = HashSet::new();
        for folder in &self.runs {
            // One that cannot be resolved cannot be read either, and reading says why.
            let Ok(real) = folder.canonicalize() else { continue };
            if !known.insert(real) {
                return Err(CliError::SameRun { folder: folder.clone() });
            }
        }
        Ok(())
    }
}

/// The folder's name, or its whole path where it has none.
fn label(folder: &Path) -> String {
    folder.file_name().map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into())
}
