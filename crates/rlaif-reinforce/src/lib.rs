//! Policy gradients of language models without a value function, from the scores of any reward:
//! GRPO, Dr. GRPO, DAPO, RLOO, REINFORCE++, GSPO, CISPO, SAPO, DPPO-TV, ReMax, and combinations of
//! one's own.
//!
//! ```text
//! prompts ─► rollout ─► Experience ─► weigh ─► TokenWeights ─► update ─► Stats
//!             │ groups of responses,   │ Algorithm            │ epochs of minibatches:
//!             │ scores, log-probs      │                      │ components, optimizer
//! ```
//!
//! An [`Algorithm`] turns an [`Experience`] into weights of tokens for a few components of the loss
//! ([`TokenWeights`]): policy gradient, likelihood, KL to the reference. Each component is divided by
//! its own count over the whole optimizer batch, so that neither the size of a pass nor padding nor
//! the order of groups changes a number. The trainer does not know which algorithm it runs: a
//! [`NamedAlgorithm`] has the settings of its paper, a [`rl::Combination`] any others, and an
//! implementation of the trait is one of your own.
//!
//! The loop is yours, see [`ReinforceTrainer`]; [`ReinforceTask`] gives it to [`train::drive`]
//! instead, with checkpoints, samples and findings.

mod algorithm;
mod collect;
mod config;
mod dynamic;
mod experience;
mod named;
mod schedule;
mod state;
mod task;
mod trainer;
mod update;

pub use algorithm::{Algorithm, TokenWeights, Weighted};
pub use config::ReinforceConfig;
pub use dynamic::DynamicSampling;
pub use experience::Experience;
pub use named::{NamedAlgorithm, Settings};
pub use rlaif_lm::Reference;
pub use task::ReinforceTask;
pub use trainer::ReinforceTrainer;
pub use {
    rlaif_core as core, rlaif_lm as lm, rlaif_rl as rl, rlaif_torch as torch, rlaif_train as train,
    tch,
};
