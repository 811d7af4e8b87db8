//! The vocabulary of reinforcement learning from AI and human feedback, as types.
//!
//! This crate needs no libtorch: whoever writes a reward model, a data source or a metric depends
//! on it alone.

mod codec;
mod record;

pub use codec::{CodecError, GenerationPrompt, Specials, TextCodec};
pub use record::Message;
