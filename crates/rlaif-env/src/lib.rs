//! Environments that a language model acts in over several turns.
//!
//! An [`Environment`] begins an [`Episode`] for a prompt. In each turn the episode gets the text of
//! the model, and answers with messages, a reward, or the end. A [`Session`] runs an episode on a
//! thread of its own with a time limit, so that an environment that never answers, panics or answers
//! nonsense costs its own episode and nothing else.
//!
//! The crate has no libtorch: an environment needs texts, and neither models nor tensors. The rollout
//! over turns is `rlaif_rl::EpisodeSampler`.

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod calculator;
mod call;
mod environment;
mod error;
mod guess;
#[cfg(feature = "openenv")]
mod openenv;
#[cfg(test)]
mod sandboxed;
mod session;
mod tool;
mod tools;

pub use calculator::Calculator;
pub use call::{Call, CallError, CallForm};
pub use environment::{Environment, EnvironmentAnswer, Episode, ModelTurn, Progress, Started};
pub use error::EnvironmentError;
pub use guess::Guess;
#[cfg(feature = "openenv")]
pub use openenv::OpenEnv;
pub use rlaif_sandbox::{Program, Sandbox, SandboxError, SandboxLimits, interpreter_path};
pub use session::Session;
pub use tool::{CommandTool, FnTool, ProgramTool, Python, Tool, ToolError, ToolSpec};
pub use tools::Tools;
