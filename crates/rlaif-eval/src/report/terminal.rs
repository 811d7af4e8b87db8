//! A report for a terminal.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr;

use super::contents::Report;
use super::words;
use crate::comparison::Histogram;

/// Alignment of a column's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table of text, as wide as its content, hidden characters shown as codes.
pub(crate) fn table(header: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let clean: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| words::one_line(cell)).collect()).collect();
    let width = |at: usize| {
        let cells = clean.iter().filter_map(|row| row.get(at)).map(|cell| cell.width());
        cells.chain([header[at].0.width()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for ((cell, (_, align)), width) in cells.zip(header).zip(&widths) {
            let space = " ".repeat(width.saturating_sub(cell.width()));
            match align {
                Align::Left => line.extend([cell, &space, "  "]),
                Align::Right => line.extend([&space, cell, "  "]),
            }
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut header.iter().map(|(name, _)| *name));
    text += &line(
        &mut widths.iter().map(|w| "─".repeat(*w)).collect::<Vec<_>>().iter().map(String::as_str),
    );
    for row in &clean {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// A one-line histogram: for each bin a block of one to eight eighths.
fn sparkline(counts: &[u64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let block = |count: &u64| match *count {
        0 => ' ',
        // The square root, so that a few toxic responses among many harmless ones still show.
        some => BLOCKS[((some as f64 / most).sqrt() * 7.99) as usize],
    };
    counts.iter().map(block).collect()
}

pub(super) fn report(report: &Report) -> String {
    use Align::{Left, Right};
    let comparison = report.comparison();
    let headline = report.headline();
    let mut text = String::new();
    let mut say = |line: &str| writeln!(text, "{line}").expect("a string takes any text");
    say(&words::one_line(&report.title));
    say("");
    say(&words::one_line(&words::headline(headline, comparison.prompts)));
    say(&words::advice(headline.delta.advice, comparison.prompts));
    for (metric, count) in &comparison.dropped {
        let metric = words::one_line(metric);
        say(&format!("{count} prompts were left out: `{metric}` had no verdict on a response."));
    }
    say("");
    let header = [
        ("metric", Left),
        ("before", Right),
        ("after", Right),
        ("change", Right),
        ("95 % interval", Right),
        ("improved", Right),
        ("p (t)", Right),
        ("", Left),
    ];
    let rows: Vec<Vec<String>> = comparison
        .rows
        .iter()
        .map(|row| {
            let delta = &row.delta;
            vec![
                row.name.clone(),
                words::number(row.before.moments.mean),
                words::number(row.after.moments.mean),
                words::signed(delta.mean),
                words::signed_interval(delta.ci95),
                words::improvement(words::improved(delta)),
                words::p_value(delta.t_test),
                words::verdict(delta.verdict).to_owned(),
            ]
        })
        .collect();
    say(&table(&header, &rows));
    if let Some(Histogram { edges, before, after }) = &headline.histogram
        && let (Some(low), Some(high)) = (edges.first(), edges.last())
    {
        let (low, high) = (words::number(*low), words::number(*high));
        say(&format!("{}, how often (square-root scale)", words::one_line(&headline.name)));
        say(&format!("  before  {low} ▕{}▏ {high}", sparkline(before)));
        say(&format!("  after   {low} ▕{}▏ {high}", sparkline(after)));
        say("");
    }
    let slices: Vec<Vec<String>> = comparison
        .slices
        .iter()
        .filter_map(|slice| {
            let row = slice.rows.iter().find(|row| row.name == headline.name)?;
            Some(vec![
                slice.by.clone(),
                slice.value.clone(),
                slice.n.to_string(),
                words::number(row.before),
                words::number(row.after),
                words::signed(row.delta),
                row.ci95.map_or_else(|| "-".to_owned(), words::signed_interval),
            ])
        })
        .collect();
    if !slices.is_empty() {
        let header = [
            ("by", Left),
            ("slice", Left),
            ("prompts", Right),
            ("before", Right),
            ("after", Right),
            ("change", Right),
            ("95 % interval", Right),
        ];
        say(&table(&header, &slices));
    }
    for win in &report.details.win_rates {
        say(&format!(
            "{} prefers the tuned policy in {} of {} prompts (95 % interval {} to {}{}).",
            words::one_line(&win.judge),
            words::percent(win.rate),
            win.n,
            words::percent(win.ci95.low),
            words::percent(win.ci95.high),
            win.length_controlled.map_or_else(String::new, |lc| {
                format!("; {} at equal length", words::percent(lc.rate))
            }),
        ));
    }
    for accuracy in &report.details.accuracies {
        say(&format!(
            "{} agrees with {} of {} preferences (95 % interval {} to {}).",
            words::one_line(&accuracy.model),
            words::percent(accuracy.accuracy),
            accuracy.n,
            words::percent(accuracy.ci95.low),
            words::percent(accuracy.ci95.high),
        ));
    }
    if let Some(findings) = &report.details.findings {
        say("");
        if findings.is_empty() {
            say(words::NOTHING_WRONG);
        } else {
            say("Training was watched, and this was noticed:");
        }
        for finding in findings {
            say(&format!("  {}", words::one_line(&finding.heading())));
            say(&format!("    likely cause: {}", words::one_line(&finding.cause)));
            say(&format!("    what to change: {}", words::one_line(&finding.advice)));
        }
    }
    text.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_whatever_the_script_and_show_no_control_character() {
        let rows = [
            vec!["毒性".to_owned(), "1".to_owned()],
            vec!["a\u{1b}[2J".to_owned(), "10".to_owned()],
        ];
        let text = table(&[("metric", Align::Left), ("n", Align::Right)], &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "metric         n");
        assert_eq!(lines[2], "毒性           1");
        assert_eq!(lines[3], "a⟨U+001B⟩[2J  10");
    }

    #[test]
    fn the_chart_shows_few_among_many() {
        assert_eq!(sparkline(&[100, 0, 1, 25]), "█ ▁▄");
        assert_eq!(sparkline(&[0, 0]), "  ");
    }
}
