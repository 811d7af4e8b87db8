//! A report as one page.

use maud::{Markup, html};

use super::contents::{Details, OptimisationPoint, Report};
use super::page::{Page, choose, flatten, folded, foreign};
use super::plot::{Whisker, forest, histogram, line};
use super::words;
use crate::About;
use crate::comparison::{ComparisonRow, Verdict};
use crate::report::curve::LEADING;

/// Limits on the shown pairs of responses: their number, and their size in bytes.
const MOST_SAMPLES: usize = 120;
const MOST_BYTES: usize = 2_000_000;

pub(super) fn report(report: &Report) -> String {
    let body = html! {
        (headline(report))
        (metrics(report))
        (distributions(report))
        (slices(report))
        (judges(report))
        (training(report))
        (samples(report))
        (setting(report))
    };
    Page { title: &report.title, body }.render()
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::Unclear => "unclear",
        Verdict::Changed => "changed",
    }
}

/// The colour of a difference in a plot.
pub(crate) fn tone(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Better) => "good",
        Some(Verdict::Worse) => "bad",
        Some(Verdict::Unclear | Verdict::Changed) | None => "plain",
    }
}

fn headline(report: &Report) -> Markup {
    let comparison = report.comparison();
    let row = report.headline();
    let delta = &row.delta;
    let fact = |name: &str, value: String, small: String| {
        html! { div { dt { (name) } dd { (value) small { (small) } } } }
    };
    let spread = |std: f64| format!("± {} standard deviation", words::number(std));
    let d = delta.effect_size.map_or_else(|| "-".to_owned(), words::signed);
    html! {
        h1 { (foreign(&report.title)) }
        p.about {
            "Before: " (foreign(&report.baseline.policy)) " · After: " (foreign(&report.policy.policy))
        }
        nav.contents aria-label="Contents" {
            a href="#metrics" { "Metrics" }
            @if has_training(report) { a href="#training" { "Training" } }
            a href="#responses" { "Responses" }
            a href="#setting" { "How this came about" }
        }
        section class={ "headline " (class(delta.verdict)) } {
            p.finding { (words::one_line(&words::headline(row, comparison.prompts))) }
            dl.numbers {
                (fact("before", words::number(row.before.moments.mean), spread(row.before.moments.std)))
                (fact("after", words::number(row.after.moments.mean), spread(row.after.moments.std)))
                (fact("difference", words::signed(delta.mean), format!("95 % interval {}", words::signed_interval(delta.ci95))))
                (fact("improvement", words::improvement(words::improved(delta)), format!("of the spread {}", words::improvement(delta.std_improvement_percent))))
                (fact("effect size", d, "Cohen's d, paired".to_owned()))
                (fact("p", words::p_value(delta.t_test), format!("t-test; Wilcoxon {}", words::p_value(delta.wilcoxon))))
            }
            p.note {
                (words::advice(delta.advice, comparison.prompts)) " "
                (comparison.prompts) " prompts, " (comparison.responses) " responses on either side, "
                (comparison.resamples) " bootstrap resamples; " (words::one_line(&row.name)) ": "
                (words::direction(row.better)) "."
            }
        }
        @for (metric, count) in &comparison.dropped {
            p.warning {
                (count) " prompts were left out on both sides, because "
                (words::one_line(metric)) " had no verdict on one of their responses."
            }
        }
        @if let Some(findings) = report.details.findings.as_ref().filter(|all| !all.is_empty()) {
            p.warning {
                "Training was watched, and this was noticed: "
                @for (at, finding) in findings.iter().enumerate() {
                    @if at > 0 { "; " }
                    (sentence(&finding.heading()))
                }
                ". " a href="#training" { "Cause and remedy" } "."
            }
        }
        @if let Some(gap) = &comparison.over_optimisation {
            @if gap.ci95.low > 0. {
                p.warning {
                    "Over-optimisation: " (words::one_line(&gap.reward)) ", which was trained on, gained "
                    (words::number(gap.reward_gain)) " standard deviations, and "
                    (words::one_line(&gap.judge)) ", which was not, "
                    (words::number(gap.judge_gain)) ". The gap is " (words::number(gap.gap))
                    " (95 % interval " (words::interval(gap.ci95)) ")."
                }
            } @else {
                p.note {
                    (words::one_line(&gap.reward)) " gained " (words::number(gap.reward_gain))
                    " standard deviations, the second judge " (words::one_line(&gap.judge)) " "
                    (words::number(gap.judge_gain)) ": no sign of over-optimisation (gap "
                    (words::interval(gap.ci95)) ")."
                }
            }
        }
    }
}

/// A table heading that sorts by its column.
fn by(name: &str, class: &str) -> Markup {
    html! { th.(class) scope="col" { button type="button" { (name) } } }
}

/// A table cell that sorts as a number; missing numbers come last.
fn cell(text: &str, value: Option<f64>) -> Markup {
    html! { td.n data-value=(value.map_or_else(String::new, |v| v.to_string())) { (text) } }
}

/// The description of a metric, shortened to fit a cell.
fn about(text: &str) -> Markup {
    const MOST: usize = 140;
    let (shown, more) = words::clip(text, MOST);
    html! { (words::one_line(shown)) @if more > 0 { "…" } }
}

fn metrics(report: &Report) -> Markup {
    let row = |row: &ComparisonRow| {
        let delta = &row.delta;
        html! {
            tr {
                td { (words::one_line(&row.name)) small { (about(&row.about)) } }
                (cell(&words::number(row.before.moments.mean), Some(row.before.moments.mean)))
                (cell(&words::number(row.after.moments.mean), Some(row.after.moments.mean)))
                (cell(&words::signed(delta.mean), Some(delta.mean)))
                (cell(&words::signed_interval(delta.ci95), Some(delta.ci95.low)))
                (cell(&words::improvement(words::improved(delta)), words::improved(delta)))
                (cell(&delta.effect_size.map_or_else(|| "-".to_owned(), words::signed), delta.effect_size))
                (cell(&words::p_value(delta.t_test), Some(delta.t_test.p)))
                (cell(&format!("{} / {}", words::percent(delta.rose), words::percent(delta.fell)), Some(delta.rose)))
                td class={ "verdict-" (class(delta.verdict)) } { (words::verdict(delta.verdict)) }
            }
        }
    };
    let value =
        |value: Option<f64>| cell(&value.map_or_else(|| "-".to_owned(), words::number), value);
    html! {
        h2 #metrics { "Metrics" }
        p.note {
            "Means over prompts; paired differences with 95 % bootstrap intervals. One metric is the \
             headline; of the others, one in twenty would look changed by chance alone."
        }
        div.wide tabindex="0" role="region" aria-label="Metrics" {
            table.sortable {
                thead { tr {
                    (by("metric", "")) (by("before", "n")) (by("after", "n")) (by("change", "n"))
                    (by("95 % interval", "n")) (by("improved", "n")) (by("effect size", "n"))
                    (by("p (t-test)", "n")) (by("rose / fell", "n")) (by("verdict", ""))
                } }
                tbody {
                    @for each in &report.comparison().rows { (row(each)) }
                    @for set in &report.comparison().sets {
                        tr {
                            td { (words::one_line(&set.name)) small { "of all responses together; no interval" } }
                            (value(set.before)) (value(set.after))
                            @let change = set.before.zip(set.after).map(|(b, a)| a - b);
                            (cell(&change.map_or_else(|| "-".to_owned(), words::signed), change))
                            @for _ in 0..5 { td.n data-value="" { "-" } }
                            td { "" }
                        }
                    }
                }
            }
        }
    }
}

fn distributions(report: &Report) -> Markup {
    html! {
        h2 { "Scores before and after" }
        p.note { "Share of responses; outline: before, bars: after." }
        div.grid {
            @for row in &report.comparison().rows {
                @if let Some(data) = &row.histogram {
                    figure {
                        figcaption { (words::one_line(&row.name)) }
                        (histogram(&row.name, data))
                    }
                }
            }
        }
    }
}

fn slices(report: &Report) -> Markup {
    let row = report.headline();
    let slices = &report.comparison().slices;
    let mut names: Vec<&str> = slices.iter().map(|slice| slice.by.as_str()).collect();
    names.dedup();
    let whiskers = |by: &str| -> Vec<Whisker> {
        let members = slices.iter().filter(|slice| slice.by == by);
        members
            .filter_map(|slice| {
                let part = slice.rows.iter().find(|part| part.name == row.name)?;
                let tone = tone(part.verdict);
                let label = slice.value.clone();
                Some(Whisker { label, n: slice.n, mean: part.delta, ci95: part.ci95, tone })
            })
            .collect()
    };
    html! {
        @if !names.is_empty() {
            h2 { (words::one_line(&row.name)) " by slice" }
            p.note {
                "Change with its 95 % interval; left of the line it fell, right of it rose; in \
                 brackets how many prompts. All metrics by slice are in report.json."
            }
            div.grid {
                @for by in names {
                    figure {
                        figcaption { "by " (words::one_line(by)) }
                        (forest(&row.name, &whiskers(by)))
                    }
                }
            }
        }
    }
}

fn judges(report: &Report) -> Markup {
    let details = &report.details;
    let share = |value: f64| cell(&words::percent(value), Some(value));
    html! {
        @if !details.win_rates.is_empty() {
            h2 { "Which response judges prefer" }
            p.note {
                "Each pair is shown in both orders; a tie is half a win. A judge without position bias \
                 prefers what it sees first in 50 % of all cases."
            }
            div.wide tabindex="0" role="region" aria-label="Win rates" {
                table.sortable {
                    thead { tr {
                        (by("judge", "")) (by("prompts", "n")) (by("win rate", "n"))
                        (by("95 % interval", "n")) (by("at equal length", "n")) (by("wins", "n"))
                        (by("ties", "n")) (by("losses", "n")) (by("first preferred", "n"))
                        (by("consistent", "n"))
                    } }
                    tbody {
                        @for win in &details.win_rates {
                            @let lc = win.length_controlled.map(|lc| lc.rate);
                            tr {
                                td { (words::one_line(&win.judge)) }
                                (cell(&win.n.to_string(), Some(win.n as f64)))
                                (share(win.rate))
                                (cell(&format!("{} to {}", words::percent(win.ci95.low), words::percent(win.ci95.high)), Some(win.ci95.low)))
                                (cell(&lc.map_or_else(|| "-".to_owned(), words::percent), lc))
                                (share(win.wins)) (share(win.ties)) (share(win.losses))
                                (share(win.first_rate)) (share(win.consistent))
                            }
                        }
                    }
                }
            }
        }
        @if !details.accuracies.is_empty() {
            h2 { "Agreement with recorded preferences" }
        }
        @for accuracy in &details.accuracies {
            p {
                (words::one_line(&accuracy.model)) " agrees with " (words::percent(accuracy.accuracy))
                " of " (accuracy.n) " preferences (95 % interval "
                (words::percent(accuracy.ci95.low)) " to " (words::percent(accuracy.ci95.high)) ")."
            }
        }
    }
}

fn has_training(report: &Report) -> bool {
    let Details { training, findings, by_divergence, .. } = &report.details;
    !training.is_empty() || findings.is_some() || !by_divergence.is_empty()
}

/// A sentence of the trainer's; parts between backticks become code.
fn sentence(text: &str) -> Markup {
    html! {
        @for (at, part) in text.split('`').enumerate() {
            @if at % 2 == 1 { code { (words::one_line(part)) } } @else { (words::one_line(part)) }
        }
    }
}

/// The reward trained on, and a judge that took no part in it, by KL divergence.
fn by_divergence(points: &[OptimisationPoint]) -> Markup {
    let by = |score: fn(&OptimisationPoint) -> f64| -> Vec<(f64, f64)> {
        let mut all: Vec<(f64, f64)> = points.iter().map(|at| (at.kl, score(at))).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all
    };
    html! {
        p.note {
            "By KL divergence from the reference policy, in nats: where the judge falls while the reward rises, the \
             reward is over-optimised."
        }
        div.grid {
            figure { figcaption { "Reward trained on" } (line("Reward trained on", &by(|at| at.reward))) }
            figure { figcaption { "Held-out judge" } (line("Held-out judge", &by(|at| at.judge))) }
        }
    }
}

fn training(report: &Report) -> Markup {
    let curves = &report.details.training;
    let leading: Vec<_> = LEADING
        .iter()
        .filter_map(|(title, names)| {
            let found = names.iter().find_map(|name| curves.iter().find(|c| c.name == *name))?;
            Some((*title, found))
        })
        .collect();
    let others: Vec<_> = curves
        .iter()
        .filter(|curve| !leading.iter().any(|(_, shown)| shown.name == curve.name))
        .collect();
    html! {
        @if has_training(report) {
            h2 #training { "Training" }
        }
        @if let Some(findings) = &report.details.findings {
            @if findings.is_empty() {
                p.note { (words::NOTHING_WRONG) }
            }
            @for finding in findings {
                div.warning {
                    p { strong { (sentence(&finding.heading())) } }
                    p { "Likely cause: " (sentence(&finding.cause)) }
                    p { "What to change: " (sentence(&finding.advice)) }
                }
            }
        }
        @if !report.details.by_divergence.is_empty() {
            (by_divergence(&report.details.by_divergence))
        }
        @if !curves.is_empty() {
            p.note { "By step of training." }
            div.grid {
                @for (title, curve) in &leading {
                    figure {
                        figcaption { (title) " " small { (words::one_line(&curve.name)) } }
                        (line(title, &curve.points))
                    }
                }
            }
            @if !others.is_empty() {
                details {
                    summary { (others.len()) " more curves" }
                    div.grid {
                        @for curve in others {
                            figure {
                                figcaption { (words::one_line(&curve.name)) }
                                (line(&curve.name, &curve.points))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn samples(report: &Report) -> Markup {
    let total = report.comparison().samples.len();
    let mut shown: Vec<String> = Vec::new();
    let mut bytes = 0;
    let chosen = choose(report, MOST_SAMPLES);
    let reasons = chosen.iter().any(|(_, why)| *why == "by chance");
    for (sample, why) in chosen {
        let change = sample.score_after - sample.score_before;
        let row = html! {
            tr {
                td.words data-label="prompt" { (folded(&sample.prompt, sample.folds.prompt.as_deref())) }
                td.words data-label="before" { (folded(&sample.before, sample.folds.before.as_deref())) }
                td.words data-label="after" { (folded(&sample.after, sample.folds.after.as_deref())) }
                td.n data-label="score before" data-value=(sample.score_before) { (words::number(sample.score_before)) }
                td.n data-label="score after" data-value=(sample.score_after) { (words::number(sample.score_after)) }
                td.n data-label="change" data-value=(change) { (words::signed(change)) }
                td.reason data-label="shown because" { (why) }
            }
        };
        bytes += row.0.len();
        if bytes > MOST_BYTES {
            break;
        }
        shown.push(row.0);
    }
    html! {
        h2 #responses { "Responses" }
        p.note {
            (shown.len()) " of " (total) " pairs of responses, with their "
            (words::one_line(&report.headline().name)) "."
            @if reasons { " A third improved most, a third got worst, the others are there by chance." }
            " Click on a heading to sort."
        }
        button.action #unfold type="button" hidden { "Show all folded texts" }
        div.wide.tall tabindex="0" role="region" aria-label="Responses" {
            table.sortable.samples {
                thead { tr {
                    (by("prompt", "")) (by("before", "")) (by("after", "")) (by("score before", "n"))
                    (by("score after", "n")) (by("change", "n")) (by("shown because", ""))
                } }
                tbody { @for row in &shown { (maud::PreEscaped(row)) } }
            }
        }
    }
}

fn setting(report: &Report) -> Markup {
    let details = &report.details;
    let pairs = |rows: &[(String, String)]| {
        html! {
            div.wide { table.facts { tbody {
                @for (name, value) in rows { tr { td { (foreign(name)) } td { (foreign(value)) } } }
            } } }
        }
    };
    let about = |title: &str, about: &About| {
        let mut rows = vec![
            ("policy".to_owned(), about.policy.clone()),
            ("seed".to_owned(), about.seed.get().to_string()),
        ];
        rows.extend(flatten(&about.generation));
        html! { h3 { (title) } (pairs(&rows)) }
    };
    html! {
        h2 #setting { "How this came about" }
        (about("Before", &report.baseline))
        (about("After", &report.policy))
        @for card in &details.reward_models {
            h3 { "Reward model " (foreign(&card.name)) }
            (pairs(&card.facts))
        }
        h3 { "Where the prompts came from" }
        pre { (foreign(&report.provenance.to_string())) }
        @if !details.timings.is_empty() {
            h3 { "Time" }
            (pairs(&details.timings.iter().map(|t| (t.phase.clone(), format!("{} s", words::number(t.seconds)))).collect::<Vec<_>>()))
        }
        @if !details.configuration.is_empty() {
            h3 { "Configuration" }
            details {
                summary { "all settings" }
                (pairs(&flatten(&details.configuration)))
            }
        }
    }
}
