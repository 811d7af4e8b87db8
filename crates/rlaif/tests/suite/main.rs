//! The commands as their user runs them, and what they are made of. One program, because linking
//! libtorch takes longer than most of these tests.

mod adapters;
mod annotate;
mod cli;
mod distill;
mod dpo;
mod encode;
mod eval;
mod exam;
mod fitted;
mod generate;
mod gguf;
mod judge;
mod label;
mod lists;
mod memory;
mod pipeline;
mod ppo;
mod ranks;
mod reinforce;
mod rl;
mod serve;
#[cfg(feature = "ui")]
mod stop;
mod support;
mod tokens;
mod train;
mod trl;
mod verify;
mod vllm;
mod vocabulary;
