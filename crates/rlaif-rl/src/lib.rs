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
//! | advantages | [`Advantage`]: [`Gae`] with a value function, [`AdvantageEstimator`] without |
//! | the loss of a token, and the mean over tokens | [`Surrogate`], [`Average`] |
//! | the same with other ratios, KL in the loss and corrections | [`PolicyObjective`] |
//! | what is known to be wrong with a choice | [`Combination`], [`CombinationConcern`] |
//! | statistics | [`Stats`] |
//! | what goes wrong, and when to end | [`Watch`] |
//! | the trained policy and its checkpoint | [`trained_parameters`], [`save_policy`], [`restore_policy`] |
//! | the loop, with checkpoints, samples and findings | [`RlTrainer`], [`RlTask`] |

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod advantage;
mod ask;
mod batch;
mod combination;
mod concern;
mod correction;
mod episodes;
mod error;
mod estimator;
mod generation;
mod groups;
mod kl_form;
mod objective;
mod overlong;
mod policy;
mod policy_objective;
mod ranks;
mod ratio;
mod resume;
mod rewards;
mod rollout;
mod score;
mod scores;
mod stats;
mod stop;
mod task;
mod trainer;
mod watch;

pub use advantage::{Advantage, Gae, Whitening};
pub use ask::{Asking, KeptPass, TokenQuantities};
pub use batch::{counted, host, passes, permutation, pick, score_tensor};
pub use combination::{Combination, CombinationUse};
pub use concern::CombinationConcern;
pub use correction::{Correction, Mismatch, OffPolicyMask};
pub use episodes::{EpisodeConfig, EpisodeSampler, History};
pub use error::RlError;
pub use estimator::{AdvantageEstimator, AdvantageScale, Rewarded, returns_to_go};
pub use generation::{check_policy, check_prompts, check_sampling};
pub use groups::Groups;
pub use kl_form::{KlForm, KlWeight};
pub use objective::{Average, PolicyLoss, Surrogate, policy_loss};
pub use overlong::Overlong;
pub use policy::{join_ranks, restore_policy, rollout_messages, save_policy, trained_parameters};
pub use policy_objective::{Anchor, PolicyLosses, PolicyObjective, PolicyTokens};
pub use ranks::{RankedReward, RankedSampler};
pub use ratio::RatioLevel;
pub use resume::check_resumed;
pub use rewards::token_rewards;
pub use rlaif_core::stats::RunningMoments;
pub use rlaif_lm::{Prompt, play, sample};
pub use rollout::{EpisodeStats, Plan, Rollout, RolloutPart, sample_row};
pub use score::{score, unscored};
pub use scores::{MissingScore, ScoreConfig, ScoreScaling};
pub use stats::{Stats, peak_bytes, real, rollout_statistics};
pub use stop::{MetricStop, StopConfig, StopReason};
pub use task::RlTask;
pub use trainer::{RlStep, RlTrainer};
pub use watch::{AdviceKeys, Symptom, Watch, Watched};
pub use {
    rlaif_core as core, rlaif_env as env, rlaif_lm as lm, rlaif_torch as torch,
    rlaif_train as train, tch,
};
