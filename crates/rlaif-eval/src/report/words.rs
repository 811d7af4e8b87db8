//! Numbers and findings in words, the same in every form of a report.

use crate::Better;
use crate::comparison::{ComparisonRow, Delta, Verdict};
use crate::stats::{Advice, Interval, PairedTest};

/// The sentence for a run that was watched without a symptom.
pub(crate) const NOTHING_WRONG: &str =
    "Training was watched for what often goes wrong, and nothing of it was seen.";

/// About four significant digits, without an exponent where possible.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0. {
        "0".to_owned()
    } else if !(1e-4..1e6).contains(&size) {
        format!("{value:.2e}")
    } else {
        let decimals = (3 - size.log10().floor() as i32).clamp(0, 5) as usize;
        format!("{value:.decimals$}")
    }
}

pub(crate) fn signed(value: f64) -> String {
    let plus = if value > 0. { "+" } else { "" };
    format!("{plus}{}", number(value))
}

pub(crate) fn interval(interval: Interval) -> String {
    format!("{} to {}", number(interval.low), number(interval.high))
}

pub(crate) fn signed_interval(interval: Interval) -> String {
    format!("{} to {}", signed(interval.low), signed(interval.high))
}

pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100. * share)
}

pub(crate) fn improvement(percent: Option<f64>) -> String {
    match percent.map(|percent| format!("{percent:+.1} %")) {
        None => "-".to_owned(),
        Some(text) if text == "-0.0 %" || text == "+0.0 %" => "0.0 %".to_owned(),
        Some(text) => text,
    }
}

/// The improvement in per cent where it is meaningful: if the mean before is indistinguishable from
/// zero, a percentage of it is arbitrary.
pub(crate) fn improved(delta: &Delta) -> Option<f64> {
    delta.improvement_percent.filter(|_| delta.improvement_ci95.is_some())
}

pub(crate) fn p_value(test: PairedTest) -> String {
    if test.p < 1e-4 { "< 0.0001".to_owned() } else { format!("{:.4}", test.p) }
}

/// One word, and a sign for readers who cannot tell colours apart.
pub(crate) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "▲ better",
        Verdict::Worse => "▼ worse",
        Verdict::Unclear => "· unclear",
        Verdict::Changed => "◆ changed",
    }
}

pub(crate) fn direction(better: Better) -> &'static str {
    match better {
        Better::Higher => "higher is better",
        Better::Lower => "lower is better",
        Better::Neither => "neither way is better",
    }
}

/// The finding in one sentence.
pub(crate) fn headline(row: &ComparisonRow, prompts: usize) -> String {
    let delta = &row.delta;
    let (before, after) = (number(row.before.moments.mean), number(row.after.moments.mean));
    let finding = match delta.verdict {
        Verdict::Better => "The tuned policy is better",
        Verdict::Worse => "The tuned policy is worse",
        Verdict::Unclear => "No difference can be told",
        Verdict::Changed => "The tuned policy differs",
    };
    let by = match (improved(delta), delta.improvement_ci95) {
        (Some(percent), Some(ci)) => {
            // A deterioration is said without a minus: "an improvement of -51 %" is hard to read.
            let (what, sign) = match row.better {
                Better::Neither => ("a change", 1.),
                Better::Higher | Better::Lower if percent < 0. => ("a deterioration", -1.),
                Better::Higher | Better::Lower => ("an improvement", 1.),
            };
            let (low, high) = if sign < 0. { (-ci.high, -ci.low) } else { (ci.low, ci.high) };
            // No negative zero.
            let [percent, low, high] = [percent * sign, low, high].map(|value| {
                let text = format!("{value:.1}");
                if text == "-0.0" { "0.0".to_owned() } else { text }
            });
            format!(", {what} of {percent}\u{a0}% (95\u{a0}% interval {low} to {high}\u{a0}%)")
        }
        _ => String::new(),
    };
    format!("{finding}: {} went from {before} to {after} on {prompts} prompts{by}.", row.name)
}

/// Advice on the number of prompts.
pub(crate) fn advice(advice: Advice, prompts: usize) -> String {
    match advice {
        Advice::Enough => "There are enough prompts for this finding.".to_owned(),
        Advice::Rough { prompts: needed } => format!(
            "The direction is clear, the size is not: about {needed} prompts (now {prompts}) would \
             give it within half of what was found."
        ),
        Advice::Unclear { prompts: Some(needed), detectable } => format!(
            "{prompts} prompts show differences from about {} on. If the true difference is the \
             one found here, about {needed} prompts would show it.",
            number(detectable)
        ),
        Advice::Unclear { prompts: None, .. } => {
            "No difference at all was found between the two sides.".to_owned()
        }
    }
}

/// The text on one line, hidden characters shown as codes.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match rlaif_core::hidden(c) {
            Some(code) => line.extend(["⟨", &code, "⟩"]),
            None if c == '\n' || c == '\t' => line.push(' '),
            None => line.push(c),
        }
    }
    line
}

/// At most `most` characters of the text, and the number of characters left out.
pub(crate) fn clip(text: &str, most: usize) -> (&str, usize) {
    match text.char_indices().nth(most) {
        Some((at, _)) => (&text[..at], text[at..].chars().count()),
        None => (text, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_four_digits_and_lose_no_sign() {
        let expected = [
            (0., "0"),
            (0.0412, "0.04120"),
            (-0.5, "-0.5000"),
            (12.3456, "12.35"),
            (1234.56, "1235"),
            (123_456.7, "123457"),
            (1e7, "1.00e7"),
            (3.2e-7, "3.20e-7"),
        ];
        for (value, text) in expected {
            assert_eq!(number(value), text);
        }
        assert_eq!(signed(0.25), "+0.2500");
        let shown = [None, Some(-0.02), Some(37.25), Some(-1.)].map(improvement);
        assert_eq!(shown, ["-", "0.0 %", "+37.2 %", "-1.0 %"]);
    }

    #[test]
    fn characters_that_reorder_or_hide_are_shown_as_codes() {
        assert_eq!(one_line("a\u{202e}b\nc\u{1b}[31m"), "a⟨U+202E⟩b c⟨U+001B⟩[31m");
        assert_eq!(one_line("نص\u{200d}👍"), "نص\u{200d}👍");
        assert_eq!(clip("naïve", 3), ("naï", 2));
        assert_eq!(clip("abc", 3), ("abc", 0));
    }
}
