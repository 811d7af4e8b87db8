//! A report in Markdown.

use std::fmt::{self, Write as _};

use super::contents::Report;
use super::words;
use crate::comparison::SampleRow;

/// Limit on the quoted characters of a response.
const MOST_CHARACTERS: usize = 600;
/// Limit on the number of quoted pairs of responses.
const MOST_SAMPLES: usize = 12;

/// Foreign text (from a model or a file) on one line, escaped for Markdown and HTML, so that it
/// cannot make a link, an image or a script.
pub(crate) fn inline(text: &str) -> String {
    let line = words::one_line(text);
    let mut safe = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            // A bare address would become a link, of a page or of an e-mail.
            ':' if !rest.as_str().starts_with(' ') => safe.push_str("&#58;"),
            '@' => safe.push_str("&#64;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '!' | '|' | '~' | '$' => {
                safe.push('\\');
                safe.push(c);
            }
            // `www.` makes a link as well.
            'w' | 'W' if safe.ends_with(['w', 'W']) => {
                write!(safe, "&#{};", u32::from(c)).expect("a string takes any text");
            }
            other => safe.push(other),
        }
    }
    safe
}

/// Text in a block of its own, unchanged except for hidden characters.
pub(crate) struct Code<'a>(pub(crate) &'a str);

impl fmt::Display for Code<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = self.0.split_inclusive('\n').map(whole_line).collect();
        let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
        let fence = "`".repeat(longest.max(2) + 1);
        writeln!(f, "{fence}text\n{}\n{fence}", text.trim_end())
    }
}

/// A line unchanged, hidden characters shown as codes.
fn whole_line(line: &str) -> String {
    match line.strip_suffix('\n') {
        Some(line) => words::one_line(line) + "\n",
        None => words::one_line(line),
    }
}

pub(super) fn report(report: &Report) -> String {
    let mut text = String::new();
    write(&mut text, report).expect("a string takes any text");
    text
}

fn write(out: &mut String, report: &Report) -> fmt::Result {
    let comparison = report.comparison();
    let headline = report.headline();
    let delta = &headline.delta;
    writeln!(out, "# {}\n", inline(&report.title))?;
    writeln!(out, "**{}**\n", inline(&words::headline(headline, comparison.prompts)))?;
    writeln!(
        out,
        "Mean difference {} (95 % interval {}, {} resamples), Cohen's d {}, p {} (t-test), {} \
         (Wilcoxon). {}\n",
        words::signed(delta.mean),
        words::signed_interval(delta.ci95),
        comparison.resamples,
        delta.effect_size.map_or_else(|| "-".to_owned(), words::signed),
        words::p_value(delta.t_test),
        words::p_value(delta.wilcoxon),
        words::advice(delta.advice, comparison.prompts),
    )?;
    writeln!(
        out,
        "Before: {} (seed {}). After: {}. {} responses on either side.\n",
        inline(&report.baseline.policy),
        report.baseline.seed.get(),
        inline(&report.policy.policy),
        comparison.responses,
    )?;
    for (metric, count) in &comparison.dropped {
        let metric = inline(metric);
        writeln!(out, "{count} prompts were left out: {metric} had no verdict on a response.\n")?;
    }
    if let Some(gap) = &comparison.over_optimisation {
        writeln!(
            out,
            "{} gained {} standard deviations, {} gained {}: a gap of {} (95 % interval {}).\n",
            inline(&gap.reward),
            words::signed(gap.reward_gain),
            inline(&gap.judge),
            words::signed(gap.judge_gain),
            words::signed(gap.gap),
            words::signed_interval(gap.ci95),
        )?;
    }
    metrics(out, report)?;
    slices(out, report)?;
    judges(out, report)?;
    training(out, report)?;
    by_divergence(out, report)?;
    samples(out, report)?;
    writeln!(out, "## Where the prompts came from\n\n{}", Code(&report.provenance.to_string()))?;
    if !report.details.configuration.is_empty() {
        let lines: String = super::page::flatten(&report.details.configuration)
            .into_iter()
            .map(|(key, value)| words::one_line(&format!("{key} = {value}")) + "\n")
            .collect();
        writeln!(out, "## Configuration\n\n{}", Code(&lines))?;
    }
    Ok(())
}

/// The over-optimisation curve.
fn by_divergence(out: &mut String, report: &Report) -> fmt::Result {
    let points = &report.details.by_divergence;
    if points.is_empty() {
        return Ok(());
    }
    writeln!(out, "## Reward and held-out judge by KL divergence\n")?;
    writeln!(out, "| steps | KL, nats | reward | judge | responses |\n|---|--:|--:|--:|--:|")?;
    for point in points {
        let (first, last) = point.steps;
        let [kl, reward, judge] = [point.kl, point.reward, point.judge].map(words::number);
        writeln!(out, "| {first} to {last} | {kl} | {reward} | {judge} | {} |", point.responses)?;
    }
    writeln!(out)
}

fn metrics(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "## Metrics\n")?;
    writeln!(out, "| metric | before | after | change | 95 % interval | improved | p (t) | |")?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|---|")?;
    for row in &report.comparison().rows {
        writeln!(
            out,
            "| {} | {} ± {} | {} ± {} | {} | {} | {} | {} | {} |",
            inline(&row.name),
            words::number(row.before.moments.mean),
            words::number(row.before.moments.std),
            words::number(row.after.moments.mean),
            words::number(row.after.moments.std),
            words::signed(row.delta.mean),
            words::signed_interval(row.delta.ci95),
            words::improvement(words::improved(&row.delta)),
            words::p_value(row.delta.t_test),
            words::verdict(row.delta.verdict),
        )?;
    }
    let value = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), words::number);
    for set in &report.comparison().sets {
        let (name, before, after) = (inline(&set.name), value(set.before), value(set.after));
        writeln!(out, "| {name}, all responses | {before} | {after} | | | | | |")?;
    }
    writeln!(out, "\nMean ± standard deviation over responses.\n")
}

fn slices(out: &mut String, report: &Report) -> fmt::Result {
    let headline = &report.headline().name;
    if report.comparison().slices.is_empty() {
        return Ok(());
    }
    writeln!(out, "## {} by slice\n", inline(headline))?;
    writeln!(out, "| by | slice | prompts | before | after | change | 95 % interval |")?;
    writeln!(out, "|---|---|--:|--:|--:|--:|--:|")?;
    for slice in &report.comparison().slices {
        let Some(row) = slice.rows.iter().find(|row| row.name == *headline) else { continue };
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            inline(&slice.by),
            inline(&slice.value),
            slice.n,
            words::number(row.before),
            words::number(row.after),
            words::signed(row.delta),
            row.ci95.map_or_else(|| "-".to_owned(), words::signed_interval),
        )?;
    }
    writeln!(out)
}

fn judges(out: &mut String, report: &Report) -> fmt::Result {
    let details = &report.details;
    if !details.win_rates.is_empty() {
        writeln!(out, "## Win rates\n")?;
        writeln!(
            out,
            "| judge | prompts | win rate | 95 % interval | at equal length | first preferred | consistent |"
        )?;
        writeln!(out, "|---|--:|--:|--:|--:|--:|--:|")?;
        for win in &details.win_rates {
            writeln!(
                out,
                "| {} | {} | {} | {} to {} | {} | {} | {} |",
                inline(&win.judge),
                win.n,
                words::percent(win.rate),
                words::percent(win.ci95.low),
                words::percent(win.ci95.high),
                win.length_controlled.map_or_else(|| "-".to_owned(), |lc| words::percent(lc.rate)),
                words::percent(win.first_rate),
                words::percent(win.consistent),
            )?;
        }
        writeln!(out)?;
    }
    for accuracy in &details.accuracies {
        writeln!(
            out,
            "{} agrees with {} of {} preferences (95 % interval {} to {}).\n",
            inline(&accuracy.model),
            words::percent(accuracy.accuracy),
            accuracy.n,
            words::percent(accuracy.ci95.low),
            words::percent(accuracy.ci95.high),
        )?;
    }
    Ok(())
}

fn training(out: &mut String, report: &Report) -> fmt::Result {
    let Some(findings) = &report.details.findings else { return Ok(()) };
    writeln!(out, "## Training\n")?;
    if findings.is_empty() {
        writeln!(out, "{}\n", words::NOTHING_WRONG)?;
    }
    for finding in findings {
        let (cause, advice) = (inline(&finding.cause), inline(&finding.advice));
        writeln!(
            out,
            "- **{}.** Likely cause: {cause}. What to change: {advice}.",
            inline(&finding.heading())
        )?;
    }
    writeln!(out)
}

fn samples(out: &mut String, report: &Report) -> fmt::Result {
    let chosen = super::page::choose(report, MOST_SAMPLES);
    writeln!(out, "## Responses\n\n{} of {}.\n", chosen.len(), report.comparison().samples.len())?;
    for (sample, why) in chosen {
        let SampleRow { id, prompt, before, after, score_before, score_after, folds } = sample;
        writeln!(out, "### {} ({why})\n", inline(id))?;
        quote(out, "Prompt", prompt, folds.prompt.as_deref())?;
        let label = |side: &str, score: f64| format!("{side}, {}", words::number(score));
        quote(out, &label("Before", *score_before), before, folds.before.as_deref())?;
        quote(out, &label("After", *score_after), after, folds.after.as_deref())?;
    }
    Ok(())
}

fn quote(out: &mut String, label: &str, text: &str, fold: Option<&str>) -> fmt::Result {
    let (shown, more) = words::clip(text, MOST_CHARACTERS);
    let more = if more > 0 { format!(" … {more} more characters") } else { String::new() };
    let quoted = format!("{}{more}", inline(shown));
    match fold {
        // A blank line ends an HTML block, and `inline` leaves none.
        Some(why) => writeln!(
            out,
            "{label}:\n\n<details><summary>folded: {}</summary>\n\n> {quoted}\n\n</details>\n",
            inline(why)
        ),
        None => writeln!(out, "{label}:\n\n> {quoted}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_markup() {
        let text = inline("# <script>x</script> ![i](http://e.x/t.png) a|b `c` www.e.x\n- d");
        assert!(!text.contains('<') && !text.contains("http:"), "{text}");
        assert!(text.contains("\\!\\[i\\]("), "{text}");
        assert!(!text.contains("www"), "{text}");
        assert!(
            !text.contains('\n') && text.contains("a\\|b") && text.contains("\\`c\\`"),
            "{text}"
        );
        assert!(text.starts_with("\\#"));
    }

    #[test]
    fn a_block_ends_where_it_should_whatever_it_holds() {
        let text = Code("a\n````\nb").to_string();
        assert_eq!(text, "`````text\na\n````\nb\n`````\n");
    }
}
