//! One number of a policy, and how it stands beside those of others.

use serde::{Deserialize, Serialize};

use crate::stats::Interval;

/// A mean and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its interval, where there is one.
    pub ci95: Option<Interval>,
}

/// Whether another policy is better in both aims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// None is at least as good in both and better in one: a choice among these is a matter of
    /// what one wants.
    Frontier,
    /// Some other policy is at least as good in both, and better in one.
    Dominated,
}
