//! Results of `rlaif revise`.

use std::path::Path;

use rlaif_core::say;
use rlaif_run::ReviseSummary;

use super::{error::CliError, print::print};

pub(crate) fn tell(summary: &ReviseSummary, out: Option<&Path>) -> Result<(), CliError> {
    let ReviseSummary { responses, revisions, unchanged, missing, first_missing, .. } = summary;
    say(format_args!(
        "{revisions} revisions of {responses} responses, {unchanged} without a change, {missing} \
         responses without all their revisions"
    ));
    if let Some(reason) = first_missing {
        say(format_args!("the first missing one: {reason}"));
    }
    for (round, measures) in summary.rounds.iter().enumerate() {
        let name = if round == 0 { "first".to_owned() } else { format!("round {round}") };
        let harmlessness = measures.harmlessness;
        let harmlessness =
            harmlessness.map_or_else(String::new, |mean| format!("harmlessness {mean:.3}, "));
        say(format_args!(
            "{name}: {harmlessness}refusals {:.1} %, evasions {:.1} %, {:.1} words",
            100. * measures.replies.refusals,
            100. * measures.replies.evasions,
            measures.words
        ));
    }
    if let Some(cost) = summary.cost {
        say(format_args!("cost of all texts {cost:.6}"));
    }
    match out {
        Some(out) => print(format_args!("{}", out.display())),
        None => Ok(()),
    }
}
