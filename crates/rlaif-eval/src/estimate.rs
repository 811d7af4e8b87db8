//! One number of a policy, and its rank among those of other policies.

use serde::{Deserialize, Serialize};

use crate::stats::Interval;

/// A mean and its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The interval of the mean, if there is one.
    pub ci95: Option<Interval>,
}

/// Rank of a policy in two aims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// On the Pareto frontier: no other policy is at least as good in both aims and better in one.
    Frontier,
    /// Some other policy is at least as good in both aims, and better in one.
    Dominated,
}
