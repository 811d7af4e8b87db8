//! `rlaif report`.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use clap::Args;
use rlaif_eval::{Repeats, Report, TradeOff};
use rlaif_run::tell_of_training;

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
        let metrics = self.pair_of_metrics()?;
        self.check_twice()?;
        let reports = self.runs.iter().map(|folder| read(folder)).collect::<Result<Vec<_>, _>>()?;
        if let [report] = reports.as_slice() {
            let out = self.out.as_ref().unwrap_or(&self.runs[0]);
            report.write(out)?;
            let page = out.join("report.html");
            return print(format_args!("{}\n{}", report.to_terminal(), page.display()));
        }
        let labelled: Vec<(String, &Report)> =
            labels(&self.runs).into_iter().zip(&reports).collect();
        let out = self.out.as_deref().unwrap_or(Path::new("."));
        let (text, page) = match metrics {
            None => {
                let repeats = Repeats::of_reports(&labelled)?;
                repeats.write(out)?;
                (repeats.to_terminal(), "runs.html")
            }
            Some((first, second)) => {
                let trade_off = TradeOff::of_reports(&labelled, first, second)?;
                trade_off.write(out)?;
                (trade_off.to_terminal(), "tradeoff.html")
            }
        };
        print(format_args!("{text}\n{}", out.join(page).display()))
    }

    fn pair_of_metrics(&self) -> Result<Option<(&str, &str)>, CliError> {
        match self.metrics.as_slice() {
            [] => Ok(None),
            [first, second] if self.runs.len() > 1 => Ok(Some((first, second))),
            other => Err(CliError::flag(
                "metrics",
                other.join(","),
                "two names, separated by a comma, for the trade-off of several runs",
            )),
        }
    }

    /// A run that is counted twice would make several runs look more similar than they are.
    fn check_twice(&self) -> Result<(), CliError> {
        let mut known = HashSet::new();
        for folder in &self.runs {
            // A path that cannot be resolved cannot be read either; reading reports the reason.
            let Ok(real) = folder.canonicalize() else { continue };
            if !known.insert(real) {
                return Err(CliError::SameRun { folder: folder.clone() });
            }
        }
        Ok(())
    }
}

/// The report in a folder, with the records of its training.
fn read(folder: &Path) -> Result<Report, CliError> {
    let path = folder.join("report.json");
    if !path.is_file() {
        return Err(CliError::NoReport { folder: folder.to_owned() });
    }
    let mut report = Report::read(&path)?;
    tell_of_training(&mut report.details, folder)?;
    Ok(report)
}

/// The names of the folders, or their complete paths if two have the same name.
fn labels(folders: &[PathBuf]) -> Vec<String> {
    let names: HashSet<_> = folders.iter().filter_map(|folder| folder.file_name()).collect();
    let distinct = names.len() == folders.len();
    let label = |folder: &PathBuf| match folder.file_name() {
        Some(name) if distinct => name.to_string_lossy().into(),
        _ => folder.display().to_string(),
    };
    folders.iter().map(label).collect()
}
