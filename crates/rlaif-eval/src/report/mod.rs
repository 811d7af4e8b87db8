//! A comparison with everything that a reader needs to judge it, as a file for programs and as
//! pages for people.

mod contents;
mod curve;
mod finding;
mod html;
mod markdown;
mod overview;
pub(crate) mod page;
pub(crate) mod plot;
mod terminal;
pub(crate) mod words;

pub use contents::{Details, OptimisationPoint, Report, ScorerCard, Timing};
pub use curve::{Curve, RunCurve, read_curves};
pub use finding::read_findings;
pub(crate) use html::tone;
pub(crate) use markdown::inline;
pub use overview::{Overview, OverviewPart};
pub use page::STYLE as PAGE_STYLE;
pub(crate) use terminal::{Align, table};

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rlaif_core::Provenance;
use serde::{Deserialize, Serialize, Serializer};

use crate::comparison::{ComparisonRow, Delta, SideStats};
use crate::{About, Comparison, EvalError, Evaluation, files};

/// The settings in which several runs differ, for each run.
pub(crate) type Settings = Vec<BTreeMap<String, String>>;

/// The settings in which the configurations of these reports differ, without those that only
/// identify the run: its folder, its model.
pub(crate) fn differing(reports: &[(String, &Report)]) -> Settings {
    let mut settings: Settings = reports
        .iter()
        .map(|(_, report)| page::flatten(&report.details.configuration).into_iter().collect())
        .collect();
    let keys: BTreeSet<String> = settings.iter().flat_map(|run| run.keys().cloned()).collect();
    let same = |key: &String| settings.iter().all(|run| run.get(key) == settings[0].get(key));
    let names = |key: &String| {
        let mut runs = settings.iter().zip(reports);
        runs.all(|(run, (label, _))| run.get(key).is_some_and(|value| value.contains(label)))
    };
    let idle: Vec<String> = keys.into_iter().filter(|key| same(key) || names(key)).collect();
    for run in &mut settings {
        run.retain(|key, _| !idle.contains(key));
    }
    settings
}

/// The version of `report.json`.
const SCHEMA: u32 = 1;

impl Report {
    /// A report on `comparison`, which compares `before` and `after`.
    ///
    /// # Errors
    /// [`EvalError::UnknownMetric`] if the comparison's headline is not among its rows.
    pub fn new(
        title: impl Into<String>,
        before: &Evaluation,
        after: &Evaluation,
        comparison: Comparison,
        details: Details,
    ) -> Result<Self, EvalError> {
        comparison.row(&comparison.headline)?;
        Ok(Self {
            title: title.into(),
            baseline: before.about.clone(),
            policy: after.about.clone(),
            provenance: after.provenance.clone(),
            details,
            comparison,
        })
    }

    /// The comparison.
    pub fn comparison(&self) -> &Comparison {
        &self.comparison
    }

    /// The row of the headline.
    pub fn headline(&self) -> &ComparisonRow {
        self.comparison.row(&self.comparison.headline).expect("checked when the report was made")
    }

    /// Writes `report.json`, `report.md` and `report.html` into `folder`, each completely or not at
    /// all.
    ///
    /// # Errors
    /// [`EvalError::Io`].
    pub fn write(&self, folder: &Path) -> Result<(), EvalError> {
        files::write_json(&folder.join("report.json"), self)?;
        files::write(&folder.join("report.md"), self.to_markdown().as_bytes())?;
        files::write(&folder.join("report.html"), self.to_html().as_bytes())
    }

    /// Reads a `report.json`.
    ///
    /// # Errors
    /// [`EvalError::Io`], [`EvalError::Format`], [`EvalError::Version`], and
    /// [`EvalError::UnknownMetric`] if the headline is not among the rows.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        const EXPECTED: &str = "a report as `rlaif eval` writes it";
        let Version { schema } = files::read_json(path, EXPECTED)?;
        if schema != SCHEMA {
            let path = path.to_owned();
            return Err(EvalError::Version { path, expected: SCHEMA, found: schema });
        }
        let read: FromFile = files::read_json(path, EXPECTED)?;
        read.comparison.row(&read.comparison.headline)?;
        Ok(Self {
            title: read.title,
            baseline: read.baseline,
            policy: read.policy,
            provenance: read.provenance,
            details: read.details,
            comparison: read.comparison,
        })
    }

    /// A table and small charts for a terminal.
    pub fn to_terminal(&self) -> String {
        terminal::report(self)
    }

    /// Markdown in which text from a model is never interpreted as markup.
    pub fn to_markdown(&self) -> String {
        markdown::report(self)
    }

    /// One self-contained page, without network access or other files. Texts of models are always
    /// shown as text, and folded as [`Folds`](crate::Folds) says. At most 120 pairs of responses
    /// and 2 MB of them are shown; `report.json` has all.
    pub fn to_html(&self) -> String {
        html::report(self)
    }
}

#[derive(Deserialize)]
struct Version {
    schema: u32,
}

#[derive(Serialize)]
struct ToFile<'a> {
    schema: u32,
    title: &'a str,
    metric: &'a str,
    n: usize,
    before: &'a SideStats,
    after: &'a SideStats,
    delta: &'a Delta,
    baseline: &'a About,
    policy: &'a About,
    #[serde(flatten)]
    details: &'a Details,
    provenance: &'a Provenance,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

/// The fields from `metric` to `delta` repeat a row of the comparison, and are not read.
#[derive(Deserialize)]
struct FromFile {
    title: String,
    baseline: About,
    policy: About,
    #[serde(flatten)]
    details: Details,
    provenance: Provenance,
    #[serde(flatten)]
    comparison: Comparison,
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = self.headline();
        let file = ToFile {
            schema: SCHEMA,
            title: &self.title,
            metric: &row.name,
            n: self.comparison.prompts,
            before: &row.before,
            after: &row.after,
            delta: &row.delta,
            baseline: &self.baseline,
            policy: &self.policy,
            details: &self.details,
            provenance: &self.provenance,
            comparison: &self.comparison,
        };
        file.serialize(serializer)
    }
}
