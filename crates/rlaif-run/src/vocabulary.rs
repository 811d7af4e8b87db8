//! Models that read each other's token ids must have one vocabulary.

use rlaif_core::Fault;
use rlaif_models::ModelFiles;
use rlaif_rewards::neural::tokenizer_folder;
use rlaif_text::{HfTokenizer, TextError, VocabularyDifference};

/// A model that was to read the ids of another tokenizer.
#[derive(Debug, thiserror::Error)]
#[error(
    "{other} has another vocabulary than {model}: id {} is {:?} there and {:?} here, and {use_}; {way_out}",
    .difference.id, .difference.other, .difference.token
)]
#[non_exhaustive]
pub struct OtherVocabulary {
    /// The model whose ids are read.
    pub model: String,
    /// The model that would read them.
    pub other: String,
    /// The first id that differs.
    pub difference: VocabularyDifference,
    /// The use of the ids.
    pub use_: &'static str,
    /// A change that helps.
    pub way_out: &'static str,
}

impl Fault for OtherVocabulary {
    fn is_users(&self) -> bool {
        true
    }
}

/// Refuses tokenizers that have different tokens for one id.
pub(crate) fn same_vocabulary(
    (model, tokenizer): (&str, &HfTokenizer),
    (other, others): (&str, &HfTokenizer),
    (use_, way_out): (&'static str, &'static str),
) -> Result<(), Box<OtherVocabulary>> {
    match tokenizer.first_difference(others) {
        None => Ok(()),
        Some(difference) => {
            let (model, other) = (model.to_owned(), other.to_owned());
            Err(Box::new(OtherVocabulary { model, other, difference, use_, way_out }))
        }
    }
}

/// The tokenizer of a model; `None` for a folder that has only weights.
pub(crate) fn tokenizer_if_present(files: &ModelFiles) -> Result<Option<HfTokenizer>, TextError> {
    match tokenizer_of(files) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(TextError::NoTokenizer { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The tokenizer beside an adapter, or else that of its base.
pub(crate) fn tokenizer_of(files: &ModelFiles) -> Result<HfTokenizer, TextError> {
    HfTokenizer::from_folder(tokenizer_folder(files))
}
