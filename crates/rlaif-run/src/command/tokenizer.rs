//! The tokenizer of a stream of rows, which may do without one.

use rlaif_core::{TextCodec, say};
use rlaif_models::ModelFiles;
use rlaif_text::HfTokenizer;

use super::error::{CommandError, RowFault};
use crate::{error::RunError, model::tokenizer};

/// The tokenizer of a model, after checking that it fits: needed only for rows of text.
pub(super) struct RowTokenizer(Result<HfTokenizer, RunError>);

impl RowTokenizer {
    pub(super) fn new(files: &ModelFiles, vocab_size: i64) -> Self {
        Self(tokenizer(files, vocab_size))
    }

    /// The tokenizer, where nothing can be done without one.
    pub(super) fn needed(self) -> Result<HfTokenizer, CommandError> {
        Ok(self.0?)
    }

    /// The same, or an error if there is no tokenizer.
    pub(super) fn required(self) -> Result<Self, CommandError> {
        self.needed().map(|tokenizer| Self(Ok(tokenizer)))
    }

    /// The tokenizer, if there is one.
    pub(super) fn known(&self) -> Option<&HfTokenizer> {
        self.0.as_ref().ok()
    }

    /// The tokenizer of a row that holds text.
    pub(super) fn of_text(&self) -> Result<&HfTokenizer, RowFault> {
        self.0.as_ref().map_err(|reason| RowFault::NoTokenizer {
            problem: "the row holds text",
            reason: reason.to_string(),
        })
    }

    /// Prints its notices on standard error.
    pub(super) fn tell_notices(&self) {
        self.known().into_iter().for_each(tell_notices);
    }
}

/// Prints the notices of a tokenizer on standard error.
pub(super) fn tell_notices(tokenizer: &HfTokenizer) {
    for notice in tokenizer.take_notices() {
        say(format_args!("{notice}"));
    }
}
