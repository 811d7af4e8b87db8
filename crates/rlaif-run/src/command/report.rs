//! `rlaif report`.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use rlaif_eval::{Repeats, Report, TradeOff};

use super::error::CommandError;
use crate::evaluate::tell_of_training;

/// Folders with a report.json, as `rlaif eval` writes them.
#[derive(Debug, Clone, Default)]
pub struct RunReports {
    /// The folders. For one folder: its report, with the curves and findings of its training. For several:
    /// how much they differ.
    pub runs: Vec<PathBuf>,
    /// No name, or two metrics for the trade-off between them over several runs.
    pub metrics: Vec<String>,
    /// Folder of the page; by default, that of the run, or for several runs the current one.
    pub out: Option<PathBuf>,
}

/// A report that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WrittenReport {
    /// The report for a terminal.
    pub text: String,
    /// The HTML page.
    pub page: PathBuf,
}

impl RunReports {
    /// Writes the report of one run again, or the comparison of several.
    ///
    /// # Errors
    /// [`CommandError::Setting`] for metrics that are not two, [`CommandError::SameRun`],
    /// [`CommandError::NoReport`], and the errors of reading and writing.
    pub fn write(&self) -> Result<WrittenReport, CommandError> {
        let metrics = self.pair_of_metrics()?;
        self.check_twice()?;
        let reports = self.runs.iter().map(|folder| read(folder)).collect::<Result<Vec<_>, _>>()?;
        if let [report] = reports.as_slice() {
            let out = self.out.as_ref().unwrap_or(&self.runs[0]);
            report.write(out)?;
            return Ok(WrittenReport { text: report.to_terminal(), page: out.join("report.html") });
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
        Ok(WrittenReport { text, page: out.join(page) })
    }

    fn pair_of_metrics(&self) -> Result<Option<(&str, &str)>, CommandError> {
        match self.metrics.as_slice() {
            [] => Ok(None),
            [first, second] if self.runs.len() > 1 => Ok(Some((first, second))),
            other => Err(CommandError::setting(
                "metrics",
                other.join(","),
                "two names, separated by a comma, for the trade-off of several runs",
            )),
        }
    }

    /// A run that is counted twice would make several runs look more similar than they are.
    fn check_twice(&self) -> Result<(), CommandError> {
        let mut known = HashSet::new();
        for folder in &self.runs {
            // A path that cannot be resolved cannot be read either; reading reports the reason.
            let Ok(real) = folder.canonicalize() else { continue };
            if !known.insert(real) {
                return Err(CommandError::SameRun { folder: folder.clone() });
            }
        }
        Ok(())
    }
}

/// The report in a folder, with the records of its training.
fn read(folder: &Path) -> Result<Report, CommandError> {
    let path = folder.join("report.json");
    if !path.is_file() {
        return Err(CommandError::NoReport { folder: folder.to_owned() });
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
