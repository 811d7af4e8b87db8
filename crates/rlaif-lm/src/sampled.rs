//! The input of a sampler's call beside the asks, and its output.

use rlaif_core::Seed;
use serde::{Deserialize, Serialize};

use crate::{forward::Forward, generate::FinishReason, policy::Policy};

/// The weights that responses are asked of.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// The policy that holds them. [`LocalSampler`](crate::LocalSampler) runs it; a sampler in another process copies
    /// its parameters when `version` has changed.
    pub policy: &'a dyn Policy,
    /// Mode of the policy.
    pub forward: Forward<'a>,
    /// Number of updates that the weights have had.
    pub version: u64,
}

impl<'a> Weights<'a> {
    /// The current weights of a policy, with its active adapter, at version 0.
    pub fn of(policy: &'a dyn Policy) -> Self {
        Self { policy, forward: Forward::default(), version: 0 }
    }
}

impl std::fmt::Debug for Weights<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights")
            .field("policy", &self.policy.spec().model_type)
            .field("forward", &self.forward)
            .field("version", &self.version)
            .finish()
    }
}

/// The source of the random numbers of a call: each token is drawn by a number that is a function
/// of the seed, the step, the row's id and the token's place in the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The seed.
    pub seed: Seed,
    /// The step.
    pub step: u64,
}

/// A sampled response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// The token ids, the ending one included.
    pub ids: Vec<u32>,
    /// log π(y_t | x, y_<t) of each id, from the whole softmax at the sampling temperature
    /// ([`crate::generate::Generated::log_probs`]), where the sampler knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_probs: Option<Vec<f32>>,
    /// The text without special tokens, up to the first stop string; empty where there was no
    /// tokenizer.
    #[serde(default)]
    pub text: String,
    /// The reason why the response ended.
    pub finish: FinishReason,
    /// The version of the weights that it was sampled from.
    #[serde(default)]
    pub version: u64,
}

impl Sampled {
    /// `true` if the response ended by itself, not at the length limit.
    pub fn is_finished(&self) -> bool {
        self.finish != FinishReason::Length
    }
}
