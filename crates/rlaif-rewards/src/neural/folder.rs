//! Where the tokenizer of a model is.

use std::path::{Path, PathBuf};

use rlaif_models::ModelFiles;
use rlaif_text::{HfTokenizer, TextError};

/// The folder of an adapter that has a tokenizer of its own, or else of its base.
pub fn tokenizer_folder(files: &ModelFiles) -> &Path {
    let own = |folder: &&PathBuf| {
        !matches!(HfTokenizer::from_folder(folder), Err(TextError::NoTokenizer { .. }))
    };
    files.adapter.as_ref().filter(own).unwrap_or(&files.folder)
}
