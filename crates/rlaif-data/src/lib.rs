//! Dialogues, prompts and preferences from files and the hub, nothing lost on the way.
//!
//! ```text
//! Source -> Reader + Corpus -> Dataset -> keep, deduplicate, split -> PromptBuilder -> prompts
//! files     rows    records                                           Shuffle       -> batches
//! ```
//!
//! ```
//! use rlaif_core::Seed;
//! use rlaif_data::builtin::{self, Part};
//! use rlaif_data::corpora::DIALOGUE_CHARACTERS;
//! use rlaif_data::{Remainder, Shuffle};
//!
//! let dialogues = builtin::dialogues(Part::Train)
//!     .keep_characters(DIALOGUE_CHARACTERS, |record| record.dialogue.as_str().into());
//! println!("{}", dialogues.provenance());
//! let mut order = Shuffle::new(dialogues.records(), Seed::new(42))?;
//! for index in order.next_batch(16.try_into()?, Remainder::Drop)? {
//!     println!("{}", dialogues.records()[index].dialogue);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This crate needs no libtorch. It ends at text: tokenizers are used through
//! [`TextCodec`](rlaif_core::TextCodec).

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

pub mod builtin;
pub mod corpora;
pub mod turns;

mod compression;
mod dataset;
mod error;
mod hub;
mod import;
mod mixture;
mod place;
mod prompt;
mod read;
mod row;
mod shuffle;
mod source;
mod split;

pub use compression::Compression;
pub use dataset::{Dataset, Remainder};
pub use error::{DataError, SplitSide};
pub use hub::HubDataset;
pub use import::{
    Dialogues, Import, ImportColumns, ImportOptions, ImportedRow, Ranked, RowForm, SafeRlhfVerdict,
    Unusable,
};
pub use place::place_of;
pub use prompt::{BuiltPrompt, PromptBuilder, PromptForm, PromptTemplate, Shortening};
pub use read::{FileFormat, Mode, ProgressUpdate, Reader, ReadingProgress, Records};
pub use row::Row;
pub use shuffle::{Position, Shuffle};
pub use source::Source;
pub use split::{Fraction, Split};
