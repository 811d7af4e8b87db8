//! The contents of a report.

use rlaif_core::{Finding, Metadata, Provenance};
use serde::{Deserialize, Serialize};

use super::Curve;
use crate::preference::{PreferenceAccuracy, WinRate};
use crate::{About, Comparison};

/// Description of a model that scored responses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScorerCard {
    /// The model's name.
    pub name: String,
    /// Facts about the model: its origin, its training data, its known errors.
    pub facts: Vec<(String, String)>,
}

/// Time taken by one part of the work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// The part.
    pub phase: String,
    /// The time, in seconds.
    pub seconds: f64,
}

/// A part of a training: how far the policy had moved, what the reward that it was trained on gave its
/// responses, and what a judge gives them that took no part in it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OptimisationPoint {
    /// The first and the last step.
    pub steps: (u64, u64),
    /// Mean KL divergence from the reference policy, in nats per response.
    pub kl: f64,
    /// Mean score of the reward that the policy was trained on.
    pub reward: f64,
    /// Mean score of the judge.
    pub judge: f64,
    /// Number of responses.
    pub responses: usize,
}

/// The parts of a report besides the comparison. Each may be empty.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// Judges' preferences for the tuned policy.
    pub win_rates: Vec<WinRate>,
    /// Agreement of reward models with human preferences.
    pub accuracies: Vec<PreferenceAccuracy>,
    /// The training curves.
    pub training: Vec<Curve>,
    /// The over-optimisation curve: reward and held-out judge by KL divergence (Gao et al. 2023,
    /// arXiv 2210.10760).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_divergence: Vec<OptimisationPoint>,
    /// Symptoms found in training; `None` if training was not watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub findings: Option<Vec<Finding>>,
    /// The resolved configuration.
    pub configuration: Metadata,
    /// The models that scored.
    pub reward_models: Vec<ScorerCard>,
    /// The time taken by each part of the work.
    pub timings: Vec<Timing>,
}

/// A comparison with everything a reader needs to judge it.
///
/// ```
/// use rlaif_core::{PromptRecord, Sample, Seed};
/// use rlaif_eval::{About, CompareOptions, Comparison, Details, Measurement, Metric, Report};
/// use rlaif_eval::text::RepetitionMetric;
/// let metrics: [Box<dyn Metric>; 1] = [Box::new(RepetitionMetric::new(1)?)];
/// let answers = |policy: &str, response: &str| {
///     let sample = |n: usize| Sample {
///         record: PromptRecord::new(n.to_string(), "Why?"),
///         response: format!("{response} {}", "so ".repeat(n)).into(),
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
    /// The heading.
    pub title: String,
    /// The policy before.
    pub baseline: About,
    /// The policy after.
    pub policy: About,
    /// The origin of the prompts.
    pub provenance: Provenance,
    /// The parts besides the comparison.
    pub details: Details,
    pub(super) comparison: Comparison,
}
