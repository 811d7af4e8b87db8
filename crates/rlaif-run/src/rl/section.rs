//! Checkpoints and samples of reinforcement learning.

use rlaif_train::FitConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Checkpoints and samples of reinforcement learning. The length of the run is in the section of
/// the algorithm.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RlTrainSection {
    /// Steps between two checkpoints; 0 saves only at the end, and when the run is interrupted.
    pub checkpoint_every: u64,
    /// Number of checkpoints to keep: the newest.
    pub keep: usize,
    /// Number of responses of each step for samples.jsonl.
    pub samples: usize,
}

impl RlTrainSection {
    /// Converts to the settings of the shared training loop.
    #[must_use]
    pub fn fit(&self, steps: u64) -> FitConfig {
        FitConfig {
            steps,
            checkpoint_every: self.checkpoint_every,
            keep: self.keep,
            ..FitConfig::default()
        }
    }
}

impl Default for RlTrainSection {
    fn default() -> Self {
        Self { checkpoint_every: 10, keep: 2, samples: 4 }
    }
}
