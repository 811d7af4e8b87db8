//! The result of an exam for a terminal.

use std::fmt::Write as _;

use rlaif_core::ExamName;

use super::{ExamReport, Share};
use crate::report::{Align, table, words};

pub(super) fn report(report: &ExamReport) -> String {
    use Align::{Left, Right};
    let mut text = String::new();
    let mut say = |line: &str| writeln!(text, "{line}").expect("a string takes any text");
    let percent = words::percent;
    let interval = |low: f64, high: f64| format!("{} to {}", percent(low), percent(high));
    say(&format!(
        "{} at {}: {} of {} questions (95 % interval {})",
        words::one_line(&report.examinee),
        report.exam.title(),
        percent(report.grade),
        report.questions,
        interval(report.ci95.low, report.ci95.high),
    ));
    if report.missing > 0 {
        say(&format!("{} questions have no verdict and count as wrong", report.missing));
    }
    if report.one_order > 0 {
        let then = match report.exam {
            ExamName::JudgeBench => "the other order counts as a tie, as in JudgeBench",
            ExamName::RewardBench | ExamName::RewardBench2 | ExamName::Hhh | ExamName::Pairs => {
                "they are among those without a verdict"
            }
        };
        say(&format!("{} pairs have a verdict in one order only: {then}", report.one_order));
    }
    if let Some(reason) = &report.first_missing {
        say(&format!("the first missing verdict: {}", words::one_line(reason)));
    }
    say("");
    let row = |name: &str, score: String, ci: String, n: String, ties: String| {
        vec![name.to_owned(), score, ci, n, ties]
    };
    let mut rows: Vec<Vec<String>> = report
        .sections
        .iter()
        .map(|section| {
            let none = String::new;
            row(&section.section, percent(section.score), none(), none(), none())
        })
        .collect();
    if let Some(ties) = &report.ties {
        let none = String::new;
        rows.push(row("Ties (score)", percent(ties.score), none(), none(), none()));
    }
    for subset in &report.subsets {
        let Share { share, ci95, n } = subset.accuracy;
        let name = if subset.subset.is_empty() { "all" } else { &subset.subset };
        let ci = interval(ci95.low, ci95.high);
        rows.push(row(name, percent(share), ci, n.to_string(), subset.ties.to_string()));
    }
    let header = [
        ("subset", Left),
        ("right", Right),
        ("95 % interval", Right),
        ("n", Right),
        ("ties", Right),
    ];
    say(&table(&header, &rows));

    let habits = &report.habits;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut share = |name: &str, share: &Option<Share>, beside: Option<(&str, &Option<Share>)>| {
        let Some(Share { share, ci95, n }) = share else { return };
        let beside = beside.and_then(|(what, share)| Some((what, share.as_ref()?)));
        let beside =
            beside.map_or(String::new(), |(what, s)| format!("{what} {}", percent(s.share)));
        let ci = interval(ci95.low, ci95.high);
        rows.push(vec![name.to_owned(), percent(*share), ci, n.to_string(), beside]);
    };
    share("position flip", &habits.position_flip, None);
    share("first wins", &habits.first_wins, None);
    share("longer wins", &habits.longer_wins, Some(("is right:", &habits.longer_is_right)));
    let own = Some(("is right:", &habits.own_family_is_right));
    share("own family wins", &habits.own_family_wins, own);
    if let Some(bias) = habits.position_bias {
        let ci = bias.ci95.map_or_else(|| "-".to_owned(), words::signed_interval);
        let nats = format!("{} nats", words::signed(bias.nats));
        rows.push(vec!["position bias".to_owned(), nats, ci, bias.n.to_string(), String::new()]);
    }
    if !rows.is_empty() {
        let header =
            [("habit", Left), ("rate", Right), ("95 % interval", Right), ("n", Right), ("", Left)];
        say(&table(&header, &rows));
    }
    if habits.always_one_position {
        say("Every verdict is for one and the same position: they say nothing about the answers.");
    }
    let agreement = &report.agreement;
    let kappa = |kappa: Option<f64>| kappa.map_or_else(|| "-".to_owned(), |k| format!("{k:.3}"));
    say(&format!(
        "agreement with the key: kappa {}, alpha {}",
        kappa(agreement.key_kappa),
        kappa(agreement.key_alpha)
    ));
    if agreement.voted > 0 {
        say(&format!(
            "agreement with people on {} questions: kappa {}, alpha {} (people alone {})",
            agreement.voted,
            kappa(agreement.people_kappa),
            kappa(agreement.people_alpha),
            kappa(agreement.alpha_of_people_alone)
        ));
    }
    if let Some(calibration) = &report.calibration {
        say(&format!(
            "calibration error {:.3}, Brier {:.3}, log-loss {:.3}",
            calibration.error, calibration.brier, calibration.log_loss
        ));
    }
    text
}
