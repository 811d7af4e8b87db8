//! Training that every algorithm shares.
//!
//! | for | use |
//! |---|---|
//! | one optimizer step: schedule, clipping, a guard against NaN | [`Optimizer`] |
//! | a batch in parts, with the result of the whole | [`accumulate`] |
//! | which weights are trained, and in which kind | [`Trainable`], [`Precision`] |
//! | a moving average of the weights | [`Ema`] |
//! | a run's folder: metrics, samples, log, resumed as if never interrupted | [`RunFolder`] |
//! | checkpoints that are whole or not there | [`Checkpoints`] |
//! | metrics to files, TensorBoard, the terminal | [`JsonlMetrics`], [`TensorBoard`], [`Terminal`] |
//! | supervised fine-tuning | [`SftTrainer`] |
//! | classifiers and preference models | [`ClassifierTrainer`], [`PreferenceTrainer`] |
//! | the loop of every training | [`drive`](drive()), [`Fit`], [`SupervisedTask`] |
//! | Ctrl-C | [`Interrupt`] |
//! | what PPO rewards and learns from | [`KlController`], [`gae`] |

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod accumulate;
mod checkpoints;
mod classifier;
mod drive;
mod ema;
mod error;
mod gae;
mod interrupt;
mod kl;
mod learner;
mod metrics;
mod microbatch;
mod optimizer;
mod preference;
mod ranks;
mod run_folder;
mod schedule;
mod scores;
mod sft;
mod supervised;
mod trainable;

pub use accumulate::accumulate;
pub use checkpoints::{CheckpointFiles, Checkpoints, Found, Goal, Keep, Saved};
pub use classifier::{ClassWeights, ClassifierRow, ClassifierStats, ClassifierTrainer};
pub use drive::{Batches, Ending, Fit, FitConfig, FitPlan, FitResult, Stepped, drive};
pub use ema::Ema;
pub use error::TrainError;
pub use gae::{Advantages, gae};
pub use interrupt::Interrupt;
pub use kl::{KlControl, KlController, KlEstimator, full_kl};
pub use learner::{LearnConfig, Learner};
pub use metrics::{JsonLines, JsonlMetrics, TensorBoard, Terminal};
pub use microbatch::{Batching, rows_of_pass};
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerProgress, StepReport};
pub use preference::{PreferenceEvaluation, PreferenceRow, PreferenceStats, PreferenceTrainer};
pub use ranks::same_weights;
pub use run_folder::{Marks, RunFolder};
pub use schedule::Schedule;
pub use scores::{Classification, classification};
pub use sft::{SftEvaluation, SftRow, SftStats, SftTrainer, sft_loss};
pub use supervised::{Supervised, SupervisedTask};
pub use trainable::{Precision, Trainable, restore_parameters};
pub use {rlaif_core as core, rlaif_lm as lm, tch};
