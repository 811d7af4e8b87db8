//! Responses from inference servers.
//!
//! [`VllmSampler`] is a [`rlaif_lm::Sampler`] over one or several vLLM servers. Token ids go to the servers and come
//! back; the weights of the policy are delivered before responses are asked of them.
//!
//! | part | content |
//! |---|---|
//! | [`VllmConfig`] | addresses, limits, bounds |
//! | [`VllmSampler`] | the sampler |
//! | [`EngineError`] | reasons why servers cannot be used |
//!
//! A LoRA adapter is delivered as a folder under a new name for each version, whole weights as a folder that the
//! servers reload. Servers and trainer need a file system in common for both.

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod check;
mod config;
mod delivery;
mod error;
mod queue;
mod sampler;
mod server;
mod wire;

pub use config::VllmConfig;
pub use error::EngineError;
pub use sampler::VllmSampler;
