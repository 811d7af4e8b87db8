//! Reinforcement learning from AI and human feedback for language models.
//!
//! This crate re-exports the others and contains the `rlaif` command; depend on the crates that you
//! need.

// Each has one place: rlaif_core::say, cli::print, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

pub mod cli;

pub use rlaif_core as core;
pub use rlaif_data as data;
pub use rlaif_distill as distill;
pub use rlaif_dpo as dpo;
pub use rlaif_engine as engine;
pub use rlaif_eval as eval;
pub use rlaif_hub as hub;
pub use rlaif_label as label;
pub use rlaif_lm as lm;
pub use rlaif_models as models;
pub use rlaif_people as people;
pub use rlaif_ppo as ppo;
pub use rlaif_reinforce as reinforce;
pub use rlaif_rewards as rewards;
pub use rlaif_rl as rl;
pub use rlaif_run as run;
pub use rlaif_run::{
    CorpusName, EvalData, EvalFile, Evaluate, EvaluateError, EvaluateProgress, EvaluatedModel,
    FetchError, MetricConfig, PolicyConfig, PreferenceCheck, Side, model_folder,
    rewards_from_config,
};
pub use rlaif_text as text;
pub use rlaif_torch::{self as torch, tch};
pub use rlaif_train as train;
