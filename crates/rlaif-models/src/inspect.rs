//! A look at a folder before it is loaded.

use std::{collections::BTreeSet, path::Path};

use rlaif_lm::{LmSpec, Policy, SequenceClassifier};

use crate::{
    classifier::Classifier,
    error::ModelError,
    family::Families,
    language_model::LanguageModel,
    load::open,
    sort::{ModelSort, architecture},
    weights::{self, Source},
};

/// The description of a model folder, read without its weights.
#[derive(Debug)]
pub struct Summary {
    /// The first of `architectures` in config.json, or its `model_type`.
    pub architecture: String,
    /// Sizes, limits and special tokens.
    pub spec: LmSpec,
    /// Scalars, tied ones once.
    pub parameters: usize,
    /// The kinds of the weights: `f32`, `bf16`, `f16`, or several joined by `+`.
    pub dtype: String,
    /// A classifier's labels in the order of its logits.
    pub labels: Vec<String>,
    /// The names of the tensors that the model has no use for.
    pub unread: Vec<String>,
}

/// Checks that a folder's weights fit its config.json, and describes them. Only headers are read, so
/// it takes a moment for a model of any size.
///
/// # Errors
/// As [`LanguageModel::load`].
pub fn inspect(folder: &Path) -> Result<Summary, ModelError> {
    inspect_of(Families::BUILT_IN, folder)
}

/// As [`inspect`], with custom families.
///
/// # Errors
/// As [`LanguageModel::load`].
pub fn inspect_of(families: Families, folder: &Path) -> Result<Summary, ModelError> {
    let (config, checkpoint) = open(folder)?;
    let kinds: BTreeSet<&str> =
        checkpoint.tensors().values().filter_map(|info| weights::dtype_name(info.dtype)).collect();
    let architecture = architecture(&config);
    let source = Source::headers(&checkpoint);
    let unread = source.unread();
    let (spec, parameters, labels) = match families.of(&config)?.1 {
        ModelSort::LanguageModel => {
            let model = LanguageModel::build(families, config, source)?;
            (model.spec().clone(), model.parameters().count(), Vec::new())
        }
        ModelSort::Classifier => {
            let model = Classifier::build(families, config, source)?;
            (model.spec().clone(), model.parameters().count(), model.labels().to_vec())
        }
    };
    let dtype = kinds.into_iter().collect::<Vec<_>>().join("+");
    let unread = unread.take();
    Ok(Summary { architecture, spec, parameters, dtype, labels, unread })
}
