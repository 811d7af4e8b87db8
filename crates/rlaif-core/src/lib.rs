//! The vocabulary of reinforcement learning from AI and human feedback, as types.
//!
//! This crate needs no libtorch: a crate with a reward model, a data source or a metric depends on
//! this crate only.

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod asked_pair;
mod codec;
mod exam;
mod fault;
mod filled;
mod finding;
mod finite;
mod interrupt;
mod judge;
mod message;
mod metadata;
mod metric;
mod provenance;
pub mod python_json;
mod record;
mod reply;
mod responder;
mod reward;
mod rows;
mod say;
mod seed;
mod setting;
mod shown;
pub mod stats;
mod ties;

pub use asked_pair::{AskedPair, Unread};
pub use codec::{ChatOptions, CodecError, GenerationPrompt, Specials, TOKENIZER_FILES, TextCodec};
pub use exam::{ExamName, ExamQuestion};
pub use fault::{Fault, FileAction, is_bad_input_file, with_causes};
pub use filled::{below_table, filled};
pub use finding::Finding;
pub use finite::{NotFinite, check_finite};
pub use interrupt::Interrupted;
pub use judge::{PairJudge, ShownPair};
pub use message::{Message, OtherContent, TextOrMessages};
pub use metadata::Metadata;
pub use metric::{MetricError, MetricSink, Metrics};
pub use provenance::{Origin, Provenance, Step};
pub use record::{
    Conversation, Demonstration, Desirability, Exchange, PreferencePair, PromptRecord, Record,
    Sample, TextKind, UnpairedPreference,
};
pub use reply::Reply;
pub use responder::{
    Eos, Responder, ResponderError, ResponseEnd, ResponseEndReason, ResponseEvent, ResponsePrompt,
    ResponseReport, ResponseRequest, ResponseToken, ShownToken,
};
pub use reward::{
    NonFinite, RewardError, RewardModel, Score, Scores, StepScore, Tell, undone_if_interrupted,
};
pub use rows::{
    ConversationRow, DemonstrationRow, LabelledRow, PairRow, PlainText, PromptRow, Rendering,
    StepsRow, UnpairedRow,
};
pub use say::say;
pub use seed::Seed;
pub use setting::BadSetting;
pub use shown::{hidden, printable};
pub use ties::Ties;
