//! `rlaif report`.

use std::path::PathBuf;

use clap::Args;
use rlaif_run::command::{RunReports, WrittenReport};

use super::{error::CliError, print::print};

#[derive(Debug, Args)]
pub(crate) struct ReportCommand {
    /// Folders with a report.json, as `rlaif eval` writes them. For one folder: its report, with
    /// the curves and findings of its training. For several: how much they differ.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Two metrics, such as `toxicity,helpfulness`: the trade-off between them over several runs.
    #[arg(long, value_delimiter = ',')]
    metrics: Vec<String>,
    /// Folder of the results; by default, that of the run, or for several runs the current one.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl ReportCommand {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let Self { runs, metrics, out } = self;
        let reports = RunReports { runs: runs.clone(), metrics: metrics.clone(), out: out.clone() };
        let WrittenReport { text, page, .. } = reports.write()?;
        print(format_args!("{text}\n{}", page.display()))
    }
}
