//! Two aims at once: the cost in one of a gain in the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use maud::html;
use serde::{Deserialize, Serialize};

use rlaif_core::BadSetting;

use crate::estimate::{Estimate, Standing};
use crate::report::page::{Page, STYLE, foreign};
use crate::report::plot::{Mark, scatter};
use crate::report::{Align, differing, inline, table, words};
use crate::{Better, EvalError, Report, files};

/// One of the two aims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aim {
    /// The metric.
    pub name: String,
    /// The better direction.
    pub better: Better,
}

/// Part of a policy in the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The starting point of tuning.
    Baseline,
    /// A result of tuning.
    Tuned,
}

/// One policy: a run, a checkpoint, a KL coefficient, a weighting of two rewards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The policy's name.
    pub label: String,
    /// Baseline or tuned.
    pub role: Role,
    /// The policy's result in the first aim.
    pub first: Estimate,
    /// The policy's result in the second aim.
    pub second: Estimate,
    /// The settings in which the candidates differ.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// Policies by two aims, for example helpfulness and harmlessness, and their Pareto frontier.
///
/// ```
/// use rlaif_eval::{Aim, Better, Candidate, Estimate, Role, Standing, TradeOff};
/// let at = |label: &str, helpful, toxic| Candidate {
///     label: label.into(),
///     role: Role::Tuned,
///     first: Estimate { mean: toxic, ci95: None },
///     second: Estimate { mean: helpful, ci95: None },
///     settings: [("kl_coef".to_owned(), label.to_owned())].into(),
/// };
/// let trade_off = TradeOff::new(
///     Aim { name: "toxicity".into(), better: Better::Lower },
///     Aim { name: "helpfulness".into(), better: Better::Higher },
///     vec![at("0.02", 0.4, 0.01), at("0.1", 0.6, 0.03), at("0.2", 0.5, 0.04)],
/// )?;
/// assert_eq!(trade_off.standing(2), Standing::Dominated);
/// assert!(trade_off.to_markdown().contains("| 2 |"));
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TradeOff {
    first: Aim,
    second: Aim,
    candidates: Vec<Candidate>,
    standings: Vec<Standing>,
}

impl TradeOff {
    /// Ranks candidates by their means; intervals are shown, but do not decide.
    ///
    /// # Errors
    /// [`EvalError::TooFew`] for no candidate, [`EvalError::NotFinite`] for a mean that is not
    /// finite, [`EvalError::Setting`] for an aim without a better direction.
    pub fn new(first: Aim, second: Aim, candidates: Vec<Candidate>) -> Result<Self, EvalError> {
        if candidates.is_empty() {
            let what = "policies to choose among".to_owned();
            return Err(EvalError::TooFew { what, needed: 1, found: 0 });
        }
        for aim in [&first, &second] {
            if aim.better == Better::Neither {
                return Err(EvalError::Setting(BadSetting::new(
                    "metric",
                    aim.name.clone(),
                    "a metric of which more or less is better, for a trade-off",
                )));
            }
        }
        let ends = |e: Estimate| {
            [Some(e.mean), e.ci95.map(|ci| ci.low), e.ci95.map(|ci| ci.high)].into_iter().flatten()
        };
        for candidate in &candidates {
            for (aim, estimate) in [(&first, candidate.first), (&second, candidate.second)] {
                if let Some(value) = ends(estimate).find(|value| !value.is_finite()) {
                    let (metric, id) = (aim.name.clone(), candidate.label.clone());
                    return Err(EvalError::NotFinite { metric, id, value });
                }
            }
        }
        let good = |candidate: &Candidate| {
            let along =
                |aim: &Aim, value: f64| if aim.better == Better::Lower { -value } else { value };
            (along(&first, candidate.first.mean), along(&second, candidate.second.mean))
        };
        let places: Vec<(f64, f64)> = candidates.iter().map(good).collect();
        let standing = |own: &(f64, f64)| {
            let beats = |other: &(f64, f64)| other.0 >= own.0 && other.1 >= own.1 && other != own;
            if places.iter().any(beats) { Standing::Dominated } else { Standing::Frontier }
        };
        let standings = places.iter().map(standing).collect();
        Ok(Self { first, second, candidates, standings })
    }

    /// The runs of these reports, by label, each baseline once, and the settings in which the
    /// configurations of the runs differ.
    ///
    /// # Errors
    /// [`EvalError::UnknownMetric`] where a report lacks the metric, [`EvalError::MetricsDiffer`]
    /// where reports disagree on the better direction, and any error of [`TradeOff::new`].
    pub fn of_reports(
        reports: &[(String, &Report)],
        first: &str,
        second: &str,
    ) -> Result<Self, EvalError> {
        let mut aims: Option<[Aim; 2]> = None;
        let mut candidates: Vec<Candidate> = Vec::new();
        for ((label, report), settings) in reports.iter().zip(differing(reports)) {
            let rows = [report.comparison().row(first)?, report.comparison().row(second)?];
            let found = rows.map(|row| Aim { name: row.name.clone(), better: row.better });
            if let Some([x, y]) = &aims
                && [x, y] != [&found[0], &found[1]]
            {
                let metric = format!("{first} or {second}");
                let what = "reports disagree which way is better";
                return Err(EvalError::MetricsDiffer { metric, what });
            }
            aims = Some(found);
            let [before, after] = [rows.map(|row| &row.before), rows.map(|row| &row.after)]
                .map(|sides| sides.map(|s| Estimate { mean: s.moments.mean, ci95: Some(s.ci95) }));
            let baseline = Candidate {
                label: report.baseline.policy.clone(),
                role: Role::Baseline,
                first: before[0],
                second: before[1],
                settings: BTreeMap::new(),
            };
            if !candidates.contains(&baseline) {
                candidates.push(baseline);
            }
            candidates.push(Candidate {
                label: label.clone(),
                role: Role::Tuned,
                first: after[0],
                second: after[1],
                settings,
            });
        }
        let Some([x, y]) = aims else {
            let what = "reports to choose among".to_owned();
            return Err(EvalError::TooFew { what, needed: 1, found: 0 });
        };
        Self::new(x, y, candidates)
    }

    /// The policies.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Returns the standing of the policy at this index: on the frontier, or dominated.
    ///
    /// # Panics
    /// If there is no such policy.
    pub fn standing(&self, at: usize) -> Standing {
        self.standings[at]
    }

    /// Writes `tradeoff.json`, `tradeoff.md`, `tradeoff.html` and `tradeoff.svg` into `folder`.
    ///
    /// # Errors
    /// [`EvalError::Io`].
    pub fn write(&self, folder: &Path) -> Result<(), EvalError> {
        files::write_json(&folder.join("tradeoff.json"), self)?;
        files::write(&folder.join("tradeoff.md"), self.to_markdown().as_bytes())?;
        files::write(&folder.join("tradeoff.svg"), self.to_svg().as_bytes())?;
        files::write(&folder.join("tradeoff.html"), self.to_html().as_bytes())
    }

    fn title(&self) -> String {
        format!("{} against {}", self.second.name, self.first.name)
    }

    fn settings(&self) -> Vec<&String> {
        let keys: BTreeSet<&String> =
            self.candidates.iter().flat_map(|candidate| candidate.settings.keys()).collect();
        keys.into_iter().collect()
    }

    /// The table's rows, as text: number, label, settings, both aims with intervals, standing.
    fn rows(&self) -> Vec<Vec<String>> {
        let keys = self.settings();
        let estimate = |e: Estimate| {
            let ci = e.ci95.map_or_else(String::new, |ci| format!(" ({})", words::interval(ci)));
            words::number(e.mean) + &ci
        };
        let row = |(at, candidate): (usize, &Candidate)| {
            let mut row = vec![(at + 1).to_string(), candidate.label.clone()];
            let setting =
                |key: &&String| candidate.settings.get(*key).map_or("-", String::as_str).to_owned();
            row.extend(keys.iter().map(setting));
            row.extend([estimate(candidate.first), estimate(candidate.second)]);
            row.push(self.said(at).to_owned());
            row
        };
        self.candidates.iter().enumerate().map(row).collect()
    }

    fn said(&self, at: usize) -> &'static str {
        match (self.standings[at], self.candidates[at].role) {
            (Standing::Frontier, Role::Tuned) => "frontier",
            (Standing::Frontier, Role::Baseline) => "frontier, baseline",
            (Standing::Dominated, Role::Tuned) => "",
            (Standing::Dominated, Role::Baseline) => "baseline",
        }
    }

    fn header(&self) -> Vec<String> {
        let mut header = vec!["no.".to_owned(), "policy".to_owned()];
        header.extend(self.settings().into_iter().cloned());
        header.extend([&self.first, &self.second].map(|aim| {
            let arrow = if aim.better == Better::Lower { "↓" } else { "↑" };
            format!("{} {arrow}", aim.name)
        }));
        header.push("standing".to_owned());
        header
    }

    fn plot(&self) -> maud::Markup {
        let marks: Vec<Mark<'_>> = self
            .candidates
            .iter()
            .enumerate()
            .map(|(at, candidate)| Mark {
                number: (at + 1).to_string(),
                label: &candidate.label,
                x: candidate.first,
                y: candidate.second,
                standing: self.standings[at],
                is_baseline: candidate.role == Role::Baseline,
            })
            .collect();
        let axis = |aim: &Aim| format!("{} ({})", aim.name, words::direction(aim.better));
        scatter(&axis(&self.first), &axis(&self.second), &marks)
    }

    /// A table for a terminal.
    pub fn to_terminal(&self) -> String {
        let header: Vec<String> = self.header().iter().map(|name| words::one_line(name)).collect();
        let aligned: Vec<(&str, Align)> =
            header.iter().map(|name| (name.as_str(), Align::Left)).collect();
        format!("{}\n\n{}", words::one_line(&self.title()), table(&aligned, &self.rows()))
    }

    /// A table in Markdown.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("# {}\n\n", inline(&self.title()));
        let mut row = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| inline(cell)).collect();
            writeln!(text, "| {} |", cells.join(" | ")).expect("a string takes any text");
        };
        let header = self.header();
        row(&header);
        row(&vec!["---".to_owned(); header.len()]);
        for cells in self.rows() {
            row(&cells);
        }
        text
    }

    /// The plot as a file of its own, which follows its viewer's light or dark theme.
    pub fn to_svg(&self) -> String {
        let svg = self.plot().into_string();
        let style =
            html! { style { (maud::PreEscaped(STYLE.replace(":root", "svg") + "svg { background: var(--paper); }")) } }.into_string();
        // Straight after the opening tag.
        svg.find('>')
            .map_or_else(String::new, |at| format!("{}{style}{}", &svg[..=at], &svg[at + 1..]))
    }

    /// One self-contained page.
    pub fn to_html(&self) -> String {
        let title = self.title();
        let body = html! {
            h1 { (foreign(&title)) }
            p.note {
                "One point for each policy, with its 95 % intervals; squares are baselines. Ringed: no \
                 other policy is better in both aims, judged by the means. Numbers are those of the table."
            }
            figure.broad { (self.plot()) }
            h2 { "Policies" }
            div.wide tabindex="0" role="region" aria-label="Policies" {
                table.sortable.runs {
                    thead { tr { @for name in self.header() { th scope="col" {
                        button type="button" { (foreign(&name)) }
                    } } } }
                    tbody {
                        @for cells in self.rows() {
                            tr { @for text in cells {
                                // Sort by the mean, which precedes its interval.
                                @let value = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
                                @if let Some(value) = value {
                                    td data-value=(value) { (foreign(&text)) }
                                } @else {
                                    td { (foreign(&text)) }
                                }
                            } }
                        }
                    }
                }
            }
        };
        Page { title: &title, body }.render()
    }
}
