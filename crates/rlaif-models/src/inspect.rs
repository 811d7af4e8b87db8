//! A look at a folder before it is loaded.

use std::{collections::BTreeSet, path::Path};

use rlaif_checkpoint::{Checkpoint, Dtype};
use rlaif_lm::{LmSpec, Parameters, Policy, SequenceClassifier};
use rlaif_torch::Quantization;
use tch::Tensor;

use crate::{
    classifier::Classifier,
    error::ModelError,
    family::Families,
    language_model::LanguageModel,
    load::open,
    sort::{ModelSort, architecture},
    weights::{self, ModelTensors},
};

/// The description of a model folder, read without its weights.
#[derive(Debug)]
pub struct ModelSummary {
    /// The first of `architectures` in config.json, or its `model_type`.
    pub architecture: String,
    /// Sizes, limits and special tokens.
    pub spec: LmSpec,
    /// Scalars, tied ones once.
    pub parameters: usize,
    /// Scalars in 4 or 8 bits.
    pub quantized: usize,
    /// Bytes of the scalars in 4 or 8 bits, with their scales.
    pub quantized_bytes: u64,
    /// The kinds of the weights: `f32`, `bf16`, `f16`, `nf4`, `int8`, or several joined by `+`.
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
pub fn inspect(folder: &Path) -> Result<ModelSummary, ModelError> {
    inspect_of(Families::BUILT_IN, folder)
}

/// As [`inspect`], with custom families.
///
/// # Errors
/// As [`LanguageModel::load`].
pub fn inspect_of(families: Families, folder: &Path) -> Result<ModelSummary, ModelError> {
    summary(families, folder, None)
}

/// As [`inspect_of`], as if the weights were loaded in this format.
pub(crate) fn summary(
    families: Families,
    folder: &Path,
    quantization: Option<Quantization>,
) -> Result<ModelSummary, ModelError> {
    let (config, checkpoint) = open(folder)?;
    let kinds: BTreeSet<&str> =
        checkpoint.tensors().values().filter_map(|info| weights::dtype_name(info.dtype)).collect();
    let architecture = architecture(&config);
    let source = ModelTensors::headers(&checkpoint).quantized(quantization);
    let unread = source.unread();
    let (spec, count, labels) = match families.sort_of_files(&config, &checkpoint)? {
        ModelSort::LanguageModel => {
            let model = LanguageModel::build(families, config, source)?;
            (
                model.spec().clone(),
                Count::of(model.parameters(), &checkpoint, quantization),
                Vec::new(),
            )
        }
        ModelSort::Classifier => {
            let model = Classifier::build(families, config, source)?;
            let count = Count::of(model.parameters(), &checkpoint, quantization);
            (model.spec().clone(), count, model.labels().to_vec())
        }
    };
    let Count { parameters, quantized, quantized_bytes, formats } = count;
    let dtype = kinds.into_iter().chain(formats).collect::<Vec<_>>().join("+");
    let unread = unread.take();
    Ok(ModelSummary {
        architecture,
        spec,
        parameters,
        quantized,
        quantized_bytes,
        dtype,
        labels,
        unread,
    })
}

/// Numbers of a model's weights.
struct Count {
    parameters: usize,
    quantized: usize,
    quantized_bytes: u64,
    formats: BTreeSet<&'static str>,
}

impl Count {
    fn of(
        parameters: &Parameters,
        checkpoint: &Checkpoint,
        quantization: Option<Quantization>,
    ) -> Self {
        let mut count = Self {
            parameters: parameters.count(),
            quantized: 0,
            quantized_bytes: 0,
            formats: BTreeSet::new(),
        };
        for name in parameters.quantized() {
            let size = parameters.get(name).map(Tensor::size).unwrap_or_default();
            let [rows, columns] = [0, 1].map(|i| size.get(i).map_or(0, |&size| size as u64));
            let how = match checkpoint.tensors().get(name).map(|info| info.dtype) {
                Some(Dtype::I8) => Quantization::Int8,
                Some(Dtype::U8) => Quantization::Nf4,
                _ => quantization.unwrap_or(Quantization::Nf4),
            };
            count.quantized += usize::try_from(rows * columns).unwrap_or(0);
            count.quantized_bytes += how.bytes(rows, columns);
            count.formats.insert(how.name());
        }
        count
    }
}
