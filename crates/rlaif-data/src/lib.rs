//! Dialogues, prompts and preferences from files and the hub, nothing lost on the way.
//!
//! ```text
//! Source -> Reader + Corpus -> Dataset -> keep, deduplicate, split -> PromptBuilder -> prompts
//! files     rows    records                                           Shuffle       -> batches
//! ```
//!
//! This crate needs no libtorch. It ends at text: tokenizers are used through
//! [`TextCodec`](rlaif_core::TextCodec).

pub mod builtin;
pub mod corpora;
pub mod turns;

mod dataset;
mod error;
mod hub;
mod mixture;
mod prompt;
mod read;
mod row;
mod shuffle;
mod source;
mod split;

pub use dataset::{Dataset, Remainder};
pub use error::{DataError, Side};
pub use hub::HubDataset;
pub use prompt::{BuiltPrompt, PromptBuilder, PromptForm, PromptTemplate, Shortening};
pub use read::{Compression, Format, Mode, Progress, ProgressUpdate, Reader, Records};
pub use row::Row;
pub use shuffle::{Position, Shuffle};
pub use source::Source;
pub use split::{Fraction, Split};
