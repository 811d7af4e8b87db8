//! The vocabulary of reinforcement learning from AI and human feedback, as types.
//!
//! This crate needs no libtorch: whoever writes a reward model, a data source or a metric depends
//! on it alone.

mod codec;
mod fault;
mod judge;
mod metric;
mod provenance;
mod record;
mod reward;
mod say;
mod seed;
mod setting;
pub mod stats;

pub use codec::{CodecError, GenerationPrompt, Specials, TextCodec};
pub use fault::{Fault, is_bad_input_file};
pub use judge::{PairJudge, Pairing};
pub use metric::{MetricError, MetricSink, Metrics};
pub use provenance::{Origin, Provenance, Step};
pub use record::{
    Conversation, Demonstration, Desirability, Exchange, Message, Metadata, PreferencePair,
    PromptRecord, Record, Sample, UnpairedPreference,
};
pub use reward::{NonFinite, RewardError, RewardModel, Score, Scores};
pub use say::say;
pub use seed::Seed;
pub use setting::BadSetting;
