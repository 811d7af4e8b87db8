//! Results of `rlaif eval`.

use std::path::Path;

use rlaif_eval::Report;

use super::{error::CliError, print::print};

pub(crate) fn tell(report: &Report, out: Option<&Path>) -> Result<(), CliError> {
    print(format_args!("{}", report.to_terminal()))?;
    match out {
        Some(out) => print(format_args!("{}", out.join("report.html").display())),
        None => Ok(()),
    }
}
