//! Mutated inputs for readers, with bounds on time and memory.
//!
//! The engine runs on stable Rust and knows nothing of the code's branches. An input is kept for further
//! mutation if its outcome (the error's words without its numbers) is a new one, so inputs get past one
//! check after the other. With the same seed and number of inputs, a run is the same on every machine.

mod campaign;
mod mutate;

pub use campaign::{Budget, Campaign, Report, Target};
pub use mutate::Mutator;
