//! Several runs of the same training: the effect of chance in training on the results.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use maud::html;
use serde::{Deserialize, Serialize};

use crate::comparison::Verdict;
use crate::report::page::{Page, foreign};
use crate::report::plot::{Whisker, forest};
use crate::report::{Align, Settings, differing, inline, table, tone, words};
use crate::stats::{Interval, mean, mean_t_interval, paired_t, sample_std};
use crate::table::verdict;
use crate::{Better, EvalError, Report, files};

/// One metric in one run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    /// Mean of the baseline.
    pub before: f64,
    /// Mean of the tuned policy.
    pub after: f64,
    /// Mean of the paired differences.
    pub delta: f64,
    /// The interval of the mean difference, over prompts.
    pub ci95: Interval,
    /// The verdict of the run by itself.
    pub verdict: Verdict,
}

/// A number over the runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation between runs (n − 1).
    pub std: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        Self { mean: mean(values), std: sample_std(values) }
    }
}

/// One metric over the runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RepeatedMetric {
    /// The metric.
    pub name: String,
    /// The better direction.
    pub better: Better,
    /// The result of each run, in order.
    pub runs: Vec<RunRow>,
    /// The baseline.
    pub before: Spread,
    /// The tuned policy.
    pub after: Spread,
    /// The difference.
    pub delta: Spread,
    /// The interval of the mean difference over runs: Student's t.
    pub ci95: Interval,
    /// The verdict over all runs.
    pub verdict: Verdict,
}

/// Runs that differ in their seed, and their common results.
///
/// The intervals of a [`Report`] are over prompts, and say nothing about another training run. The
/// intervals here are over runs: mean ± t · s/√n of the runs' mean differences. With three runs t
/// is 4.3, so that only differences common to all runs stand out.
///
/// ```
/// # use rlaif_core::{PromptRecord, Sample, Seed};
/// # use rlaif_eval::{About, CompareOptions, Comparison, Details, Measurement, Metric, Report};
/// # use rlaif_eval::text::RepetitionMetric;
/// # let metrics: [Box<dyn Metric>; 1] = [Box::new(RepetitionMetric::new(1)?)];
/// # let answers = |seed: u64, response: &str| {
/// #     let sample = |n: usize| Sample {
/// #         record: PromptRecord::new(n.to_string(), "Why?"),
/// #         response: format!("{response} {}", "so ".repeat(n)).into(),
/// #     };
/// #     Measurement::of(&metrics).run(About::new("p", Seed::new(seed)), (0..9).map(sample).collect())
/// # };
/// # let report = |seed: u64, tuned: &str| {
/// #     let (before, after) = (answers(seed, "no no no no")?, answers(seed, tuned)?);
/// #     let comparison = Comparison::of(&before, &after, &CompareOptions::default())?;
/// #     Report::new("Less repetition", &before, &after, comparison, Details::default())
/// # };
/// use rlaif_eval::{Repeats, Verdict};
/// let (one, two) = (report(1, "I would rather not")?, report(2, "I would prefer not to")?);
/// let repeats = Repeats::of_reports(&[("seed-1".into(), &one), ("seed-2".into(), &two)])?;
/// let metric = repeats.metric("repetition_1")?;
/// assert_eq!((metric.runs.len(), metric.verdict), (2, Verdict::Better));
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Repeats {
    headline: String,
    labels: Vec<String>,
    prompts: Vec<usize>,
    settings: Settings,
    metrics: Vec<RepeatedMetric>,
}

impl Repeats {
    /// The runs of these reports, by label, with the metrics that all of them have, and the
    /// settings in which their configurations differ.
    ///
    /// # Errors
    /// [`EvalError::TooFew`] for fewer than two reports, [`EvalError::MetricsDiffer`] where another
    /// report lacks the headline of the first, or gives it another direction.
    pub fn of_reports(reports: &[(String, &Report)]) -> Result<Self, EvalError> {
        if reports.len() < 2 {
            let what = "runs to compare".to_owned();
            return Err(EvalError::TooFew { what, needed: 2, found: reports.len() });
        }
        let first = reports[0].1;
        let headline = first.comparison().headline.clone();
        let mut metrics = Vec::new();
        for row in &first.comparison().rows {
            let rows: Vec<_> = reports
                .iter()
                .filter_map(|(_, report)| report.comparison().row(&row.name).ok())
                .filter(|other| other.better == row.better)
                .collect();
            if rows.len() < reports.len() {
                if row.name == headline {
                    let what = "missing, or with another direction, in one of the runs";
                    return Err(EvalError::MetricsDiffer { metric: headline, what });
                }
                continue;
            }
            let runs: Vec<RunRow> = rows
                .iter()
                .map(|row| RunRow {
                    before: row.before.moments.mean,
                    after: row.after.moments.mean,
                    delta: row.delta.mean,
                    ci95: row.delta.ci95,
                    verdict: row.delta.verdict,
                })
                .collect();
            let each = |of: fn(&RunRow) -> f64| runs.iter().map(of).collect::<Vec<f64>>();
            let deltas = each(|run| run.delta);
            let ci95 = mean_t_interval(&deltas)?;
            metrics.push(RepeatedMetric {
                name: row.name.clone(),
                better: row.better,
                before: Spread::of(&each(|run| run.before)),
                after: Spread::of(&each(|run| run.after)),
                delta: Spread::of(&deltas),
                ci95,
                verdict: verdict(ci95, paired_t(&deltas)?, row.better),
                runs,
            });
        }
        Ok(Self {
            headline,
            labels: reports.iter().map(|(label, _)| label.clone()).collect(),
            prompts: reports.iter().map(|(_, report)| report.comparison().prompts).collect(),
            settings: differing(reports),
            metrics,
        })
    }

    /// The metrics that all runs have.
    pub fn metrics(&self) -> &[RepeatedMetric] {
        &self.metrics
    }

    /// Returns the metric with this name.
    ///
    /// # Errors
    /// [`EvalError::UnknownMetric`].
    pub fn metric(&self, name: &str) -> Result<&RepeatedMetric, EvalError> {
        self.metrics.iter().find(|metric| metric.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.metrics.iter().map(|metric| metric.name.as_str()).collect();
            EvalError::UnknownMetric { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Writes `runs.json`, `runs.md` and `runs.html` into `folder`.
    ///
    /// # Errors
    /// [`EvalError::Io`].
    pub fn write(&self, folder: &Path) -> Result<(), EvalError> {
        files::write_json(&folder.join("runs.json"), self)?;
        files::write(&folder.join("runs.md"), self.to_markdown().as_bytes())?;
        files::write(&folder.join("runs.html"), self.to_html().as_bytes())
    }

    fn main(&self) -> &RepeatedMetric {
        self.metric(&self.headline).expect("checked when it was made")
    }

    fn title(&self) -> String {
        format!("{} over {} runs", self.headline, self.labels.len())
    }

    /// The finding in one sentence.
    fn finding(&self) -> String {
        let metric = self.main();
        let count = |verdict| metric.runs.iter().filter(|run| run.verdict == verdict).count();
        format!(
            "Over {} runs {} went from {} to {}, by {} on average (95 % interval {}, over runs): {}. \
             Each run by itself, over its prompts: {} better, {} worse.",
            metric.runs.len(),
            metric.name,
            words::number(metric.before.mean),
            words::number(metric.after.mean),
            words::signed(metric.delta.mean),
            words::signed_interval(metric.ci95),
            words::verdict(metric.verdict),
            count(Verdict::Better),
            count(Verdict::Worse),
        )
    }

    const HEADER: [(&str, Align); 7] = [
        ("metric", Align::Left),
        ("before", Align::Right),
        ("after", Align::Right),
        ("change", Align::Right),
        ("from run to run", Align::Right),
        ("95 % interval", Align::Right),
        ("verdict", Align::Left),
    ];

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |metric: &RepeatedMetric| {
            vec![
                metric.name.clone(),
                words::number(metric.before.mean),
                words::number(metric.after.mean),
                words::signed(metric.delta.mean),
                format!("± {}", words::number(metric.delta.std)),
                words::signed_interval(metric.ci95),
                words::verdict(metric.verdict).to_owned(),
            ]
        };
        self.metrics.iter().map(row).collect()
    }

    fn run_header(&self) -> Vec<String> {
        let mut header = vec!["run".to_owned()];
        header.extend(self.keys().into_iter().cloned());
        header.extend(
            ["prompts", "before", "after", "change", "95 % interval", "verdict"].map(str::to_owned),
        );
        header
    }

    fn keys(&self) -> Vec<&String> {
        let keys: BTreeSet<&String> = self.settings.iter().flat_map(|run| run.keys()).collect();
        keys.into_iter().collect()
    }

    /// The headline's metric, run by run.
    fn run_rows(&self) -> Vec<Vec<String>> {
        let keys = self.keys();
        let row = |(at, run): (usize, &RunRow)| {
            let mut cells = vec![self.labels[at].clone()];
            let setting =
                |key: &&String| self.settings[at].get(*key).map_or("-", String::as_str).to_owned();
            cells.extend(keys.iter().map(setting));
            cells.extend([
                self.prompts[at].to_string(),
                words::number(run.before),
                words::number(run.after),
                words::signed(run.delta),
                words::signed_interval(run.ci95),
                words::verdict(run.verdict).to_owned(),
            ]);
            cells
        };
        self.main().runs.iter().enumerate().map(row).collect()
    }

    /// Tables for a terminal.
    pub fn to_terminal(&self) -> String {
        let names: Vec<String> =
            self.run_header().iter().map(|name| words::one_line(name)).collect();
        let aligned: Vec<(&str, Align)> =
            names.iter().map(|name| (name.as_str(), Align::Left)).collect();
        format!(
            "{}\n\n{}\n{}",
            words::one_line(&self.finding()),
            table(&Self::HEADER, &self.rows()),
            table(&aligned, &self.run_rows())
        )
    }

    /// Tables in Markdown.
    pub fn to_markdown(&self) -> String {
        let mut text =
            format!("# {}\n\n**{}**\n\n", inline(&self.title()), inline(&self.finding()));
        let mut add = |header: &[String], rows: &[Vec<String>]| {
            let line = |cells: &[String]| {
                let cells: Vec<String> = cells.iter().map(|cell| inline(cell)).collect();
                format!("| {} |\n", cells.join(" | "))
            };
            text += &line(header);
            text += &format!("|{}\n", "---|".repeat(header.len()));
            rows.iter().for_each(|row| text += &line(row));
            text.push('\n');
        };
        add(&Self::HEADER.map(|(name, _)| name.to_owned()), &self.rows());
        add(&self.run_header(), &self.run_rows());
        writeln!(text, "{NOTE}").expect("a string takes any text");
        text
    }

    /// One self-contained page.
    pub fn to_html(&self) -> String {
        let metric = self.main();
        let mut whiskers: Vec<Whisker> = metric
            .runs
            .iter()
            .enumerate()
            .map(|(at, run)| Whisker {
                label: self.labels[at].clone(),
                n: self.prompts[at],
                mean: run.delta,
                ci95: Some(run.ci95),
                tone: tone(Some(run.verdict)),
            })
            .collect();
        whiskers.push(Whisker {
            label: "all runs".to_owned(),
            n: metric.runs.len(),
            mean: metric.delta.mean,
            ci95: Some(metric.ci95),
            tone: tone(Some(metric.verdict)),
        });
        let sortable = |label: &str, header: &[String], rows: &[Vec<String>]| {
            html! {
                div.wide tabindex="0" role="region" aria-label=(label) {
                    table.sortable.runs {
                        thead { tr { @for name in header { th scope="col" {
                            button type="button" { (foreign(name)) }
                        } } } }
                        tbody { @for cells in rows { tr { @for text in cells {
                            // Sort an interval by its lower end.
                            @let word = text.trim_start_matches("± ").split(' ').next();
                            @if let Some(value) = word.and_then(|word| word.parse::<f64>().ok()) {
                                td data-value=(value) { (foreign(text)) }
                            } @else {
                                td { (foreign(text)) }
                            }
                        } } } }
                    }
                }
            }
        };
        let title = self.title();
        let header = Self::HEADER.map(|(name, _)| name.to_owned());
        let body = html! {
            h1 { (foreign(&title)) }
            section class={ "headline " (match metric.verdict {
                Verdict::Better => "better",
                Verdict::Worse => "worse",
                Verdict::Unclear | Verdict::Changed => "",
            }) } { p.finding { (words::one_line(&self.finding())) } }
            p.note { (NOTE) }
            figure.narrow {
                figcaption { "Change of " (foreign(&self.headline)) ", run by run" }
                (forest(&metric.name, &whiskers))
            }
            h2 { "Metrics" }
            (sortable("Metrics", &header, &self.rows()))
            h2 { "Runs" }
            (sortable("Runs", &self.run_header(), &self.run_rows()))
        };
        Page { title: &title, body }.render()
    }
}

const NOTE: &str = "Each run's interval is over its prompts, by the bootstrap, and says how its mean would move \
                    with other prompts; that of all runs is over the runs' means, by Student's t, and \
                    says how the mean would move with other seeds.";
