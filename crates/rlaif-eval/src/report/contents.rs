//! The contents of a report.

use rlaif_core::{Finding, Metadata, Provenance};
use serde::{Deserialize, Serialize};

use super::Curve;
use crate::preference::{PreferenceAccuracy, WinRate};
use crate::{About, Comparison};

/// What is told of a model that scored responses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModelCard {
    /// What it is called.
    pub name: String,
    /// Facts about it: where it is from, what it was trained on, what it is known to get wrong.
    pub facts: Vec<(String, String)>,
}

/// How long a part of the work took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Which part.
    pub phase: String,
    /// How long, in seconds.
    pub seconds: f64,
}

/// What a report tells besides the comparison. Every part may be left empty.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// How often judges prefer the tuned policy.
    pub win_rates: Vec<WinRate>,
    /// How well reward models agree with people.
    pub accuracies: Vec<PreferenceAccuracy>,
    /// How training went.
    pub training: Vec<Curve>,
    /// What went wrong in training; none where nobody watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub findings: Option<Vec<Finding>>,
    /// The resolved configuration.
    pub configuration: Metadata,
    /// The models that scored.
    pub reward_models: Vec<ModelCard>,
    /// Where the time went.
    pub timings: Vec<Timing>,
}

/// A comparison with everything a reader needs to judge it.
///
/// ```
/// use rlaif_core::{PromptRecord, Sample, Seed};
/// use rlaif_eval::{About, CompareOptions, Comparison, Details, Measurement, Metric, Report};
/// use rlaif_eval::text::Repetition;
/// let metrics: [Box<dyn Metric>; 1] = [Box::new(Repetition::new(1)?)];
/// let answers = |policy: &str, response: &str| {
///     let sample = |n: usize| Sample {
///         record: PromptRecord::new(n.to_string(), "Why?"),
///         response: format!("{response} {}", "so ".repeat(n)),
///     };
///     Measurement::of(&metrics).run(About::new(policy, Seed::new(1)), (0..9).map(sample).collect())
/// };
/// let (before, after) = (answers("base", "no no no no")?, answers("tuned", "I would rather not")?);
/// let comparison = Comparison::of(&before, &after, &CompareOptions::default())?;
/// let report = Report::new("Less repetition", &before, &after, comparison, Details::default())?;
/// let folder = tempfile::tempdir().unwrap();
/// report.write(folder.path())?;
/// assert_eq!(Report::read(&folder.path().join("report.json"))?, report);
/// assert!(report.to_html().contains("Content-Security-Policy"));
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Its heading.
    pub title: String,
    /// The policy before.
    pub baseline: About,
    /// The policy after.
    pub policy: About,
    /// Where the prompts came from.
    pub provenance: Provenance,
    /// What else is told.
    pub details: Details,
    pub(super) comparison: Comparison,
}
