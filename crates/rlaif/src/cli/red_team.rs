//! Results of `rlaif red-team`.

use std::path::Path;

use rlaif_core::say;
use rlaif_run::RedTeamSummary;

use super::{error::CliError, print::print};

pub(crate) fn tell(summary: &RedTeamSummary, out: Option<&Path>) -> Result<(), CliError> {
    let RedTeamSummary { prompts, written, equal, filtered, missing, .. } = summary;
    say(format_args!(
        "{prompts} prompts, {written} of them written; {equal} equal to others, {filtered} below the \
         filter, {missing} missing"
    ));
    if let Some(reason) = &summary.first_missing {
        say(format_args!("the first missing one: {reason}"));
    }
    if let Some(cost) = summary.cost {
        say(format_args!("cost of all texts {cost:.6}"));
    }
    match out {
        Some(out) => print(format_args!("{}", out.display())),
        None => Ok(()),
    }
}
