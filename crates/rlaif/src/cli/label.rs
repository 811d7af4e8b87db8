//! Results of `rlaif label`.

use std::path::Path;

use rlaif_core::say;
use rlaif_run::LabelSummary;

use super::{error::CliError, print::print};

pub(crate) fn tell(summary: &LabelSummary, out: Option<&Path>) -> Result<(), CliError> {
    let LabelSummary { pairs, labelled, ties, missing, first_missing, estimate, .. } = summary;
    match summary.lists {
        Some(lists) => say(format_args!(
            "{labelled} labels of {pairs} pairs, {ties} ties; {missing} of {lists} lists without a label"
        )),
        None => say(format_args!(
            "{labelled} labels of {pairs} pairs, {ties} ties, {missing} without a label"
        )),
    }
    if let Some(reason) = first_missing {
        say(format_args!("the first without a label: {reason}"));
    }
    if let Some(lessons) = summary.lessons {
        say(format_args!(
            "{lessons} lessons: right answers of the judge, with both places equally often"
        ));
    }
    if let Some(missing @ 1..) = summary.lessons_missing {
        say(format_args!("{missing} pairs without a right judgement have no lesson"));
    }
    if *estimate {
        say("labels are estimates: the judge gives no probabilities");
    }
    for (facet, report) in &summary.facets {
        let habits = &report.habits;
        if let Some(bias) = habits.position_bias {
            let interval = bias.ci95.map_or_else(String::new, |ci| {
                format!(" (95 % interval {:+.3} to {:+.3})", ci.low, ci.high)
            });
            say(format_args!("{facet}: position bias {:+.3} nats{interval}", bias.nats));
        }
        if let (Some(flip), Some(first)) = (habits.position_flip, habits.first_wins) {
            say(format_args!(
                "{facet}: {:.1} % of pairs flip with the order, the first wins {:.1} %",
                100. * flip.share,
                100. * first.share
            ));
        }
        if report.one_order > 0 {
            say(format_args!(
                "{facet}: {} pairs have an answer in one order only",
                report.one_order
            ));
        }
        if summary.has_preferences {
            let (low, high) = (100. * report.ci95.low, 100. * report.ci95.high);
            say(format_args!(
                "{facet}: agrees with {:.1} % of the file's preferences (95 % interval {low:.1} to \
                 {high:.1} %)",
                100. * report.grade
            ));
        }
        if habits.always_one_position {
            say(format_args!(
                "{facet}: every verdict of the judge is for one and the same position: they say nothing"
            ));
        }
    }
    for (facet, of_judge) in &summary.places {
        let shares: Vec<String> =
            of_judge.shares.iter().map(|share| format!("{:.1} %", 100. * share)).collect();
        let nats = of_judge.first_nats.map_or_else(String::new, |nats| {
            format!(", position bias of the first {nats:+.3} nats")
        });
        say(format_args!(
            "{facet}: by place in {} lists of {}: {}{nats}",
            of_judge.lists,
            of_judge.responses,
            shares.join(", ")
        ));
    }
    if let Some(cost) = summary.cost {
        say(format_args!("cost of all answers {cost:.6}"));
    }
    for (name, value) in &summary.usage {
        say(format_args!("{name} {value}"));
    }
    match out {
        Some(out) => print(format_args!("{}", out.display())),
        None => Ok(()),
    }
}
