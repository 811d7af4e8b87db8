//! Direct preference optimization of language models, and its family of losses.
//!
//! ```text
//! PreferencePair ─► pair_rows ─► TokenPair ─┬─► reference_of_pairs ─► ReferenceSums (once, on disk)
//!  text             a tokenizer           └─► DpoTrainer::update_pairs ─► DpoStats
//! PromptRecord ─► DpoTrainer::sample_pairs (the policy answers twice, a RewardModel picks) ─┘
//! ```
//!
//! | for | use |
//! |---|---|
//! | pairs to tokens: what is cut, left out or refused | [`pair_rows`], [`RowConfig`] |
//! | losses of pairs, with or without a reference | [`PairLoss`], [`PairObjective`], [`paired`] |
//! | losses of single responses | [`UnpairedLoss`], [`response_rows`], [`unpaired`] |
//! | the update | [`DpoTrainer`], [`DpoConfig`] |
//! | the reference: a copy, adapters off, or on disk | [`Reference`], [`ReferenceSums`] |
//! | held-out pairs, and responses | [`DpoTrainer::evaluate`], [`DpoTrainer::evaluate_responses`] |
//! | pairs of the policy's own responses | [`DpoTrainer::sample_pairs`], [`OnlineConfig`] |
//! | the loop that trainings share, with checkpoints | [`DpoTask`] |

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod checkpoint;
mod config;
mod error;
mod evaluate;
mod forward;
mod loss;
mod online;
mod reference;
mod responses;
mod rows;
mod stats;
mod task;
mod trainer;

pub use config::{DpoConfig, Objective, ReferenceConfig};
pub use error::{DpoError, PairProblem};
pub use evaluate::{PairEvaluation, PairOutcome, PairShare};
pub use forward::PromptForward;
pub use loss::{
    BatchScale, Coupling, Lengths, LossTerm, PairLoss, PairObjective, PairSums,
    ReferenceDivergence, ResponseSums, RewardShift, RunningMean, UnpairedLoss, Weighting, paired,
    unpaired,
};
pub use online::{Contest, OnlineBatch, OnlineConfig, OnlineReport};
pub use reference::{CacheKey, ReferenceSums, ReferenceUpdate};
pub use responses::{ResponseEvaluation, ResponseOutcome};
pub use rlaif_lm::Reference;
pub use rows::{
    Boundary, OnProblem, ResponseRow, RowConfig, RowEnd, RowReport, TokenPair, TooLong, pair_rows,
    response_rows,
};
pub use stats::DpoStats;
pub use task::{DpoTask, HeldOutEvaluation, HeldOutRows, TrainRows};
pub use trainer::DpoTrainer;
pub use {rlaif_core as core, rlaif_lm as lm, rlaif_rl as rl, rlaif_train as train, tch};
