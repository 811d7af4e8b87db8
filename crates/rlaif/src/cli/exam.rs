//! Results of `rlaif exam`.

use std::path::Path;

use rlaif_eval::ExamReport;

use super::{error::CliError, print::print};

pub(crate) fn tell(report: &ExamReport, out: Option<&Path>) -> Result<(), CliError> {
    print(format_args!("{}", report.to_terminal().trim_end()))?;
    match out {
        Some(out) => print(format_args!("{}", out.join("exam.json").display())),
        None => Ok(()),
    }
}
