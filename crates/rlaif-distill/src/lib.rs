//! On-policy distillation: a student answers prompts, and learns from the distributions of a teacher at every token
//! of its own responses ([Agarwal et al. 2023](https://arxiv.org/abs/2306.13649)).
//!
//! ```text
//! prompts ─► sample (student) ─► responses ─► student's and teacher's logits ─► divergence ─► update
//! ```
//!
//! A [`TeacherDivergence`] is the distance between student and teacher at a token: a generalised
//! Jensen-Shannon divergence with the forward and the reverse KL at its ends, the forward KL over the
//! teacher's most probable tokens, or the reverse KL as a policy gradient. [`DistillTrainer`] is for
//! a training loop of your own; [`DistillTask`] runs it in [`train::drive`] instead.

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod config;
mod divergence;
mod task;
mod trainer;

pub use config::DistillConfig;
pub use divergence::TeacherDivergence;
pub use task::DistillTask;
pub use trainer::{DistillStep, DistillTrainer};
pub use {rlaif_core as core, rlaif_lm as lm, rlaif_rl as rl, rlaif_train as train, tch};
