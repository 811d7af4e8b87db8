//! The folder of a model's tokenizer.

use std::path::{Path, PathBuf};

use rlaif_models::ModelFiles;
use rlaif_text::{HfTokenizer, TextError};

/// The folder of an adapter if it has a tokenizer, else that of its base.
pub fn tokenizer_folder(files: &ModelFiles) -> &Path {
    let own = |folder: &&PathBuf| {
        !matches!(HfTokenizer::from_folder(folder), Err(TextError::NoTokenizer { .. }))
    };
    files.adapter.as_ref().filter(own).unwrap_or(&files.folder)
}
