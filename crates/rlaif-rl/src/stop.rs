//! Rules for ending a run before its steps are done.

use rlaif_core::BadSetting;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stats::Stats;

/// Rules for ending a run before its steps are done; the first rule that holds ends it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopConfig {
    /// A metric has reached its threshold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<MetricStop>,
    /// The KL against the reference has reached this limit, in nats per response (`objective/kl`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_kl: Option<f64>,
}

impl StopConfig {
    /// Checks the rules.
    ///
    /// # Errors
    /// [`BadSetting`] names a field as `stop.max_kl`, because every configuration has its rules in
    /// `stop`.
    pub fn check(&self) -> Result<(), BadSetting> {
        if let Some(max_kl) = self.max_kl.filter(|kl| !(*kl > 0. && kl.is_finite())) {
            return Err(BadSetting::new("stop.max_kl", max_kl, "a finite number above 0"));
        }
        let Some(rule) = &self.metric else { return Ok(()) };
        if rule.window == 0 {
            return Err(BadSetting::new("stop.metric.window", 0, "at least 1 step"));
        }
        for (field, bound) in
            [("stop.metric.at_least", rule.at_least), ("stop.metric.at_most", rule.at_most)]
        {
            if let Some(bound) = bound.filter(|bound| !bound.is_finite()) {
                return Err(BadSetting::new(field, bound, "a finite number"));
            }
        }
        let field = "stop.metric";
        match (rule.at_least, rule.at_most) {
            (None, None) => {
                Err(BadSetting::new(field, "without a threshold", "`at_least` or `at_most`"))
            }
            (Some(a), Some(b)) if a <= b => {
                let found = format!("at_least {a} and at_most {b}");
                Err(BadSetting::new(field, found, "thresholds that some number misses"))
            }
            _ => Ok(()),
        }
    }

    /// A message at step 1 if the rule names a metric that this step does not have. `section` is
    /// the run file's section with the rules.
    pub fn unknown_metric(&self, stats: &Stats, section: &str) -> Option<String> {
        let name = &self.metric.as_ref()?.name;
        (stats.step == 1 && stats.metrics.get(name).is_none()).then(|| {
            format!(
                "warning: `{section}.stop.metric.name` is `{name}`, and step 1 has no such number, \
                 so that the rule does not end the run; the names are those in metrics.jsonl"
            )
        })
    }
}

/// Ends a run when the moving average of a metric reaches a threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricStop {
    /// The metric's name in metrics.jsonl, such as `ppo/mean_scores`.
    pub name: String,
    /// Number of steps in the average; the rule does not apply before that many steps.
    pub window: usize,
    /// Ends the run at or above this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// Ends the run at or below this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
}

/// Reasons why a run ended before its steps were done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The moving average of a metric has reached its threshold.
    Metric {
        /// The metric's name.
        name: String,
        /// The average.
        average: f64,
    },
    /// KL against the reference, in nats per response.
    Kl {
        /// The value found.
        kl: f64,
    },
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Metric { name, average } => {
                write!(f, "the moving average of `{name}` is {average:.4} (`stop.metric`)")
            }
            Self::Kl { kl } => write!(f, "`objective/kl` is {kl:.3} (`stop.max_kl`)"),
        }
    }
}
