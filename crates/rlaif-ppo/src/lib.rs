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
//! | what goes wrong, and when to end | [`Watch`] |
//!
//! `docs/ppo.md` in the repository lists every detail with its source.

mod config;
mod error;
mod loss;
mod rollout;
mod scores;
mod state;
mod stats;
mod task;
mod trainer;
mod update;
mod value_model;
mod watch;

pub use config::{
    Compatibility, KeptActivations, KlConfig, MetricStop, PpoConfig, PretrainingConfig, StopConfig,
    UpdateDropout, Whitening,
};
pub use error::PpoError;
pub use loss::{PolicyLoss, ValueLoss, policy_loss, token_rewards, value_loss};
pub use rlaif_core::stats::RunningMoments;
pub use rlaif_lm::Reference;
pub use rollout::{Prompt, Rollout};
pub use scores::{MissingScore, ScoreConfig, ScoreScaling};
pub use stats::PpoStats;
pub use task::PpoTask;
pub use trainer::PpoTrainer;
pub use value_model::ValueModel;
pub use watch::{StopReason, Symptom, Watch};
pub use {rlaif_core as core, rlaif_lm as lm, rlaif_torch as torch, rlaif_train as train, tch};
