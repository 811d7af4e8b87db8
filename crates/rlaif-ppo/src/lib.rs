//! Proximal policy optimization of language models
//! ([Schulman et al. 2017](https://arxiv.org/abs/1707.06347)), from the scores of any reward.
//!
//! ```text
//! prompts ─► rollout ─► Rollout ─► advantages ─► Advantages ─► update ─► PpoStats
//!             │ responses, scores,   │ KL penalty, score,        │ epochs of minibatches:
//!             │ log-probs, values    │ whitening, GAE            │ losses, optimizer
//! ```
//!
//! The loop is yours, see [`PpoTrainer`]; [`PpoTask`] gives it to [`train::drive`] instead, with
//! checkpoints, samples and findings. What each part computes is a function with its equation:
//!
//! | part | function |
//! |---|---|
//! | KL per token | [`train::KlEstimator`], [`train::full_kl`] |
//! | KL coefficient | [`train::KlController`] |
//! | scores | [`ScoreConfig`], [`RunningMoments`] |
//! | rewards per token | [`token_rewards`] |
//! | advantages | [`train::gae`], [`lm::Mask::whiten`] |
//! | losses | [`policy_loss`], [`value_loss`] |
//! | symptoms of what goes wrong, and when to end | [`Watch`] |
//!
//! `docs/ppo.md` in the repository lists every detail with its source.

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod config;
mod error;
mod loss;
mod progress;
mod state;
mod stats;
mod task;
mod trainer;
mod trl;
mod update;
mod value_model;

pub use config::{Compatibility, KlConfig, PpoConfig, PretrainingConfig};
pub use error::PpoError;
pub use loss::{ValueLoss, value_loss};
pub use rlaif_lm::Reference;
pub use rlaif_rl::{
    MetricStop, MissingScore, PolicyLoss, Prompt, Rollout, RunningMoments, ScoreConfig,
    ScoreScaling, Stats as PpoStats, StopConfig, StopReason, Symptom, Watch, Whitening,
    policy_loss, token_rewards,
};
pub use task::PpoTask;
pub use trainer::PpoTrainer;
pub use value_model::ValueModel;
pub use {
    rlaif_core as core, rlaif_lm as lm, rlaif_rl as rl, rlaif_torch as torch, rlaif_train as train,
    tch,
};
