//! Pairs without a better response.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Treatment of pairs of which neither response is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ties {
    /// Ties are left out.
    #[default]
    Drop,
    /// Ties are kept, with a probability of 0.5.
    Keep,
}
