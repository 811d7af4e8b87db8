//! Reinforcement learning from AI and human feedback for language models.
//!
//! This crate only gathers the others and holds the `rlaif` command; depend on the one you need.

pub mod cli;

pub use rlaif_core as core;
pub use rlaif_hub as hub;
pub use rlaif_lm as lm;
pub use rlaif_models as models;
pub use rlaif_text as text;
pub use rlaif_torch as torch;
pub use tch;
