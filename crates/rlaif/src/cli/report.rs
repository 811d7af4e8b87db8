//! `rlaif report`.

use std::path::{Path, PathBuf};

use clap::Args;
use rlaif_eval::{Report, TradeOff, read_curves};

use super::{error::CliError, eval::print};

#[derive(Debug, Args)]
pub(crate) struct ReportCommand {
    /// Folders with a report.json, as `rlaif eval` and the trainers leave them.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Two metrics, say `toxicity,helpfulness`: of several runs the trade-off between the two.
    #[arg(long, value_delimiter = ',')]
    metrics: Vec<String>,
    /// Folder for the trade-off; the current one if not given.
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

impl ReportCommand {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let mut reports = Vec::new();
        for folder in &self.runs {
            let mut report = Report::read(&folder.join("report.json"))?;
            let curves = folder.join("metrics.jsonl");
            if report.details.training.is_empty() && curves.is_file() {
                report.details.training = read_curves(&curves)?;
            }
            reports.push((label(folder), report));
        }
        if let [(_, report)] = reports.as_slice() {
            report.write(&self.runs[0])?;
            let page = self.runs[0].join("report.html");
            return print(&format!("{}\n{}\n", report.to_terminal(), page.display()));
        }
        let [first, second] = self.metrics.as_slice() else {
            return Err(CliError::Flag {
                flag: "metrics",
                found: if self.metrics.is_empty() {
                    "missing".to_owned()
                } else {
                    self.metrics.join(",")
                },
                expected: "two names, separated by a comma, for the trade-off of several runs",
            });
        };
        let labelled: Vec<(String, &Report)> =
            reports.iter().map(|(label, report)| (label.clone(), report)).collect();
        let trade_off = TradeOff::of_reports(&labelled, first, second)?;
        trade_off.write(&self.out)?;
        let page = self.out.join("tradeoff.html");
        print(&format!("{}\n{}\n", trade_off.to_terminal(), page.display()))
    }
}

/// The folder's name, or its whole path where it has none.
fn label(folder: &Path) -> String {
    folder.file_name().map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into())
}
