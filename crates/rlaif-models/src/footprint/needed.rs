//! The memory of a run, and the refusal of one that does not fit.

use std::fmt;

use rlaif_core::Fault;
use tch::Device;

use super::sizes::gib;
use crate::error::ModelError;

/// The time of generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GenerationTime {
    /// While nothing else is computed, by the weights in training.
    #[default]
    Alone,
    /// Beside updates, by a copy of the trained weights.
    BesideUpdates,
}

/// Memory needs of a run, in bytes.
///
/// Weights, gradients, optimizer state and caches are exact for the built-in architectures; the
/// activations that a transformer block keeps for its backward pass are estimated from above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryNeeded {
    /// The policy's weights, its adapter's, and those of copies: a reference, and the sampler's beside updates.
    pub weights: u64,
    /// Gradients and both Adam moments; for 16-bit weights also the f32 master copy or, for bf16 on
    /// the CPU, the 16 missing bits of each weight.
    pub optimizer: u64,
    /// Activations kept for the backward pass of a microbatch, and one chunk of logits.
    pub activations: u64,
    /// Keys and values during the generation of a batch.
    pub cache: u64,
    /// The reward models.
    pub rewards: u64,
    /// Keys and values of the answers of local judges.
    pub judging: u64,
    /// The time of generation.
    pub generation: GenerationTime,
}

impl MemoryNeeded {
    /// The total: activations and caches are not needed at the same time, unless responses are generated beside
    /// updates.
    pub fn total(&self) -> u64 {
        let answering = self.cache.max(self.judging);
        let passing = match self.generation {
            GenerationTime::Alone => self.activations.max(answering),
            GenerationTime::BesideUpdates => self.activations + answering,
        };
        self.weights + self.optimizer + self.rewards + passing
    }
}

impl fmt::Display for MemoryNeeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("weights", self.weights),
            ("gradients and optimizer", self.optimizer),
            ("activations", self.activations),
            ("generation", self.cache),
            ("rewards", self.rewards),
            ("answers of judges", self.judging),
        ];
        let parts = parts.into_iter().filter(|(_, bytes)| *bytes > 0);
        let parts: Vec<String> =
            parts.map(|(name, bytes)| format!("{name} {}", gib(bytes))).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Reasons why a run cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The run would exceed the free memory.
    #[error(
        "the run needs about {}, and {device:?} has {} free ({needed}). {suggestion}",
        gib(needed.total()), gib(*free)
    )]
    TooLarge {
        /// The needed memory.
        needed: Box<MemoryNeeded>,
        /// The free memory.
        free: u64,
        /// The device.
        device: Device,
        /// Advice to the user.
        suggestion: String,
    },
    /// A model's folder cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Fault for MemoryError {
    fn is_users(&self) -> bool {
        match self {
            // The run would fit with other settings, or on another machine.
            Self::TooLarge { .. } => false,
            Self::Model(error) => error.is_users(),
        }
    }
}
