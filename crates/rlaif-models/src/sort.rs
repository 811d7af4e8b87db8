//! Language model or classifier.

use crate::{config::Config, error::ModelError};

/// The sort of model that a folder's config.json describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelSort {
    /// [`crate::LanguageModel::load`] reads it.
    LanguageModel,
    /// [`crate::Classifier::load`] reads it.
    Classifier,
}

impl ModelSort {
    /// The sort that transformers' class names end in.
    pub(crate) fn of_class(name: &str) -> Option<Self> {
        const GENERATE: [&str; 3] = ["ForCausalLM", "ForConditionalGeneration", "WithLMHeadModel"];
        if name.ends_with("ForSequenceClassification") {
            return Some(Self::Classifier);
        }
        GENERATE.iter().any(|end| name.ends_with(end)).then_some(Self::LanguageModel)
    }
}

/// `true` for a class with logits for each token.
pub(crate) fn of_tokens(class: &str) -> bool {
    class.ends_with("ForTokenClassification")
}

/// The class that config.json names first; empty if it names none.
pub(crate) fn class(config: &Config) -> &str {
    let classes = config.fields().get("architectures");
    classes.and_then(|list| list.get(0)).and_then(|name| name.as_str()).unwrap_or("")
}

/// The class, or in its absence the `model_type`.
pub(crate) fn architecture(config: &Config) -> String {
    match class(config) {
        "" => config.text("model_type").unwrap_or("").to_owned(),
        class => class.to_owned(),
    }
}

pub(crate) fn wrong_sort(config: &Config, wanted: &'static str) -> ModelError {
    ModelError::WrongSort {
        file: config.path().to_owned(),
        architecture: architecture(config),
        wanted,
    }
}
