//! Text for language models: Hugging Face tokenizers and chat templates.
//!
//! [`HfTokenizer`] reads a model's folder as transformers 5 does and implements
//! [`rlaif_core::TextCodec`]: `tokenizer.json`, or a vocabulary alone, special tokens,
//! padding side and length limit from `tokenizer_config.json` and the older files, and chat
//! templates, rendered character for character as transformers renders them.

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod bound;
mod chat;
mod config;
mod error;
mod guard;
mod json;
mod load;
mod mask;
mod methods;
mod notice;
mod sentencepiece;
mod surround;
mod tokenizer;

pub use config::SequenceSide;
pub use error::TextError;
pub use mask::{LearnedTurns, MaskError, MaskedChat};
pub use tokenizer::{Encoded, HfTokenizer, SpecialToken, SpecialTokens, VocabularyDifference};
