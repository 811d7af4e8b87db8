//! Policy gradients for language models without a value function, with the scores of any
//! reward: GRPO, Dr. GRPO, DAPO, RLOO, REINFORCE++, GSPO, CISPO, SAPO, DPPO-TV, ReMax, and custom
//! combinations.
//!
//! ```text
//! prompts ─► rollout ─► Experience ─► weigh ─► TokenWeights ─► update ─► Stats
//!             │ groups of responses,   │ Algorithm            │ epochs of minibatches:
//!             │ scores, log-probs      │                      │ components, optimizer
//! ```
//!
//! An [`Algorithm`] turns an [`Experience`] into token weights for up to three components of
//! the loss ([`TokenWeights`]): policy gradient, likelihood, KL to the reference. Each component is
//! divided by its own count over the whole optimizer batch, so that the size of a pass, padding and
//! the order of groups do not change the result. The trainer is independent of the algorithm: a
//! [`NamedAlgorithm`] has the settings of its paper, a [`rl::Combination`] any others, and a custom
//! algorithm implements the trait.
//!
//! [`ReinforceTrainer`] is for a training loop of your own; [`ReinforceTask`] runs it in
//! [`train::drive`] instead, with checkpoints, samples and findings.

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod ahead;
mod algorithm;
mod collect;
mod config;
mod curriculum;
mod dynamic;
mod experience;
mod group;
mod named;
mod replay;
mod schedule;
mod state;
mod task;
mod trainer;
mod update;

pub use algorithm::{Algorithm, TokenWeights, Weighted};
pub use config::ReinforceConfig;
pub use curriculum::Curriculum;
pub use dynamic::DynamicSampling;
pub use experience::Experience;
pub use named::{NamedAlgorithm, Settings};
pub use replay::{Replay, Rollouts};
pub use rlaif_lm::Reference;
pub use schedule::Minibatch;
pub use task::ReinforceTask;
pub use trainer::{Choice, ReinforceTrainer};
pub use {
    rlaif_core as core, rlaif_lm as lm, rlaif_rl as rl, rlaif_torch as torch, rlaif_train as train,
    tch,
};
