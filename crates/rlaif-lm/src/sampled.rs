//! The input of a sampler's call beside the asks, and its output.

use std::{collections::BTreeMap, ops::Range};

use rlaif_core::{Message, Seed};
use serde::{Deserialize, Serialize};

use crate::{
    forward::Forward,
    generate::{FinishReason, GenerationConfig},
    policy::Policy,
};

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

/// The input of a sampler's call beside the asks.
#[derive(Debug, Clone, Copy)]
pub struct SamplerCall<'a> {
    /// The weights that are asked.
    pub weights: Weights<'a>,
    /// The settings.
    pub how: &'a GenerationConfig,
    /// The source of the random numbers.
    pub draw: Draw,
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
    /// The episode, for a response of several turns with an environment between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub played: Option<Box<Played>>,
}

/// An episode: turns of a policy, and text of an environment between them, as one response.
///
/// The ids of the response are those that the policy sampled, as it sampled them, with the environment's
/// between them. [`Played::given`] tells which are the environment's: the policy reads them, and does
/// not learn them. Behind each of [`Played::forks`], the environment's tokens are the conversation so far, as a
/// chat template has rewritten it, and the policy reads nothing before them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Played {
    /// The ranges of the response's ids that the environment wrote.
    pub given: Vec<Range<usize>>,
    /// The indices in the response's ids at which the policy started over: from there on it read nothing of what is
    /// before, neither the prompt nor earlier turns. The ids of the new beginning are among the environment's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forks: Vec<usize>,
    /// The prompt that the policy read, if the environment added its first messages to that of the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Vec<u32>>,
    /// The last token of each turn of the policy, and the environment's reward for the turn.
    pub rewards: Vec<(usize, f64)>,
    /// The turns of both as messages.
    pub said: Vec<Message>,
    /// The text of the policy's last turn.
    pub answer: String,
    /// The reason why the episode has no score, if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Events by name, for the metrics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u32>,
}

impl Played {
    /// Number of the environment's tokens.
    pub fn given_tokens(&self) -> usize {
        self.given.iter().map(ExactSizeIterator::len).sum()
    }

    /// The sum of the environment's rewards.
    pub fn reward(&self) -> f64 {
        self.rewards.iter().map(|(_, reward)| reward).sum()
    }
}

impl Sampled {
    /// `true` if the response ended by itself, not at the length limit.
    pub fn is_finished(&self) -> bool {
        self.finish != FinishReason::Length
    }

    /// Number of tokens that the policy sampled.
    pub fn own_tokens(&self) -> usize {
        self.ids.len() - self.played.as_ref().map_or(0, |played| played.given_tokens())
    }
}
