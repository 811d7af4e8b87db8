//! Sampling of other prompts in place of those that teach nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Dynamic sampling: groups whose scores are all equal teach nothing, and other prompts are sampled
/// in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DynamicSampling {
    /// Most further rounds of sampling in a step; 0 keeps all groups. What is not full after the
    /// last round is trained on as it is.
    pub rounds: usize,
}
