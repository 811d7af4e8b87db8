//! Results of `rlaif candidates`.

use std::path::Path;

use rlaif_core::say;
use rlaif_run::CandidatesSummary;

use super::{error::CliError, print::print};

pub(crate) fn tell(summary: &CandidatesSummary, out: Option<&Path>) -> Result<(), CliError> {
    let CandidatesSummary { prompts, responses, equal, cut, missing, .. } = summary;
    say(format_args!(
        "{responses} responses to {prompts} prompts, {equal} more equal to others, {cut} cut short, \
         {missing} missing"
    ));
    if let Some(reason) = &summary.first_missing {
        say(format_args!("the first missing one: {reason}"));
    }
    if let Some(cost) = summary.cost {
        say(format_args!("cost of all responses {cost:.6}"));
    }
    match out {
        Some(out) => print(format_args!("{}", out.display())),
        None => Ok(()),
    }
}
