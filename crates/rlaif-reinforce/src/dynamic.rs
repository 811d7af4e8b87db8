//! Sampling of other prompts in place of groups without a learning signal.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Dynamic sampling: a group whose scores are all equal has no learning signal, so another
/// prompt is sampled in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DynamicSampling {
    /// Maximum number of further sampling rounds in a step; 0 keeps all groups. If the batch is
    /// still incomplete after the last round, the step trains on the smaller batch.
    pub rounds: usize,
}
