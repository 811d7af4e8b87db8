//! The shared parts of reinforcement-learning algorithms for language models.
//!
//! ```text
//! prompts ─► sample ─► score ─► Rollout ─► token_rewards ─► Advantage ─► Surrogate, Average ─► loss
//!             │ Sampled │ Scores  │ log-probs, KL, values (if there is a value function)
//! ```
//!
//! An algorithm is a choice of each: PPO (`rlaif-ppo`) takes generalized advantage estimation and
//! the clipped surrogate, and adds a value function and its loss. What each part computes is a
//! function with its equation:
//!
//! | part | function |
//! |---|---|
//! | responses to prompts, several to each if wanted | [`sample`] |
//! | their scores | [`score`], [`ScoreConfig`] |
//! | what the models say of the tokens | [`Asking`], [`Rollout`] |
//! | rewards per token | [`token_rewards`] |
//! | advantages | [`Advantage`]: [`Gae`], [`GroupBaseline`] |
//! | the loss of a token, and the mean over tokens | [`Surrogate`], [`Average`] |
//! | statistics | [`Stats`] |
//! | what goes wrong, and when to end | [`Watch`] |

mod advantage;
mod ask;
mod batch;
mod error;
mod objective;
mod rewards;
mod rollout;
mod sample;
mod scores;
mod stats;
mod stop;
mod watch;

pub use advantage::{Advantage, Gae, GroupBaseline, Whitening};
pub use ask::{Asked, Asking};
pub use batch::{counted, host, passes, permutation, pick, score_tensor};
pub use error::RlError;
pub use objective::{Average, PolicyLoss, Surrogate, policy_loss};
pub use rewards::token_rewards;
pub use rlaif_core::stats::RunningMoments;
pub use rollout::{Part, Plan, Prompt, Rollout};
pub use sample::{sample, score};
pub use scores::{MissingScore, ScoreConfig, ScoreScaling};
pub use stats::{Stats, real, rollout_statistics};
pub use stop::{MetricStop, StopConfig, StopReason};
pub use watch::{Symptom, Watch, Watched};
pub use {rlaif_core as core, rlaif_lm as lm, rlaif_torch as torch, rlaif_train as train, tch};
