//! When a run ends before its steps are done.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a run ends before its steps are done: at the first rule that holds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopConfig {
    /// A metric has come far enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<MetricStop>,
    /// The policy is so far from the reference, in nats per response (`objective/kl`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_kl: Option<f64>,
}

/// Ends a run where the moving average of a metric has come far enough.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricStop {
    /// Its name in metrics.jsonl, such as `ppo/mean_scores`.
    pub name: String,
    /// Over how many of the last steps the average goes; there is no verdict before so many.
    pub window: usize,
    /// Ends the run at or above this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// Ends the run at or below this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
}

/// Why a run ends before its steps are done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The moving average of a metric has come far enough.
    Metric {
        /// Its name.
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
