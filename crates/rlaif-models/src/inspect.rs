//! A look at a folder before it is loaded.

use std::{collections::BTreeSet, path::Path};

use rlaif_checkpoint::Checkpoint;
use rlaif_lm::{LmSpec, Parameters, Policy, SequenceClassifier};
use rlaif_torch::Quantization;
use serde::Serialize;
use tch::Tensor;

use crate::{
    classifier::Classifier,
    error::ModelError,
    family::{Families, Family},
    language_model::LanguageModel,
    load::{Build, open},
    quantized::stored_as,
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
    /// The uses of the model that are supported.
    pub supported: Vec<Capability>,
}

impl ModelSummary {
    /// Bytes of the weights in memory, those that are not in 4 or 8 bits of `width` bytes each.
    pub(crate) fn bytes(&self, width: u64) -> u64 {
        (self.parameters - self.quantized) as u64 * width + self.quantized_bytes
    }
}

/// A supported use of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Capability {
    /// Generating, and training by any algorithm on responses.
    Policy,
    /// A classifier or a reward model, also with a fresh head on a language model.
    Classifier,
    /// A head on tokens, such as that of process reward models.
    TokenClassifier,
    /// Training of all weights; impossible where they are in 4 or 8 bits.
    AllWeights,
    /// LoRA.
    Lora,
    /// LoRA with trained magnitudes.
    Dora,
    /// LoRA that begins with the largest singular values of the weights.
    Pissa,
    /// LoRA that begins with the first columns of the weights' QR factorisation.
    Olora,
    /// The base of an adapter in NF4.
    Nf4,
    /// The base of an adapter in 8 bits.
    Int8,
    /// Export to GGUF.
    Gguf,
}

impl Capability {
    /// The uses of a model of this family and sort, with weights in these formats of 4 or 8 bits.
    fn of(family: &Family, sort: ModelSort, formats: &BTreeSet<&str>) -> Vec<Self> {
        let is_quantized = !formats.is_empty();
        let exports = family.generates.is_some_and(|generates| generates.gguf.is_some());
        let all = [
            (Self::Policy, sort == ModelSort::LanguageModel),
            (Self::Classifier, family.classifies.is_some()),
            (Self::TokenClassifier, family.token_class().is_some()),
            (Self::AllWeights, !is_quantized),
            (Self::Lora, true),
            (Self::Dora, true),
            (Self::Pissa, true),
            (Self::Olora, true),
            (Self::Nf4, !is_quantized || formats.contains(Quantization::Nf4.name())),
            (Self::Int8, !is_quantized || formats.contains(Quantization::Int8.name())),
            (Self::Gguf, exports && sort == ModelSort::LanguageModel && !is_quantized),
        ];
        all.into_iter().filter(|(_, holds)| *holds).map(|(use_, _)| use_).collect()
    }
}

/// Bytes of a model's weights in memory, by the dtype in which they are loaded. Weights that the files have in
/// 4 or 8 bits stay so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WeightMemory {
    /// In f32.
    pub f32: u64,
    /// In bf16 or f16.
    pub bf16: u64,
    /// In bf16, with the linear layers of the trunk in 8 bits.
    pub int8: u64,
    /// In bf16, with the linear layers of the trunk in NF4.
    pub nf4: u64,
}

impl WeightMemory {
    /// Computes the numbers from the headers of a folder.
    ///
    /// # Errors
    /// As [`inspect_of`].
    pub fn of(families: Families, folder: &Path) -> Result<Self, ModelError> {
        let plain = summary(families, folder, None)?;
        let with = |how| Ok::<_, ModelError>(summary(families, folder, Some(how))?.bytes(2));
        Ok(Self {
            f32: plain.bytes(4),
            bf16: plain.bytes(2),
            int8: with(Quantization::Int8)?,
            nf4: with(Quantization::Nf4)?,
        })
    }
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
    let sort = families.sort_of_files(&config, &checkpoint)?;
    let family = families.family(&config)?;
    let (spec, count, labels) = match sort {
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
    let dtype = kinds.into_iter().chain(formats.iter().copied()).collect::<Vec<_>>().join("+");
    let unread = unread.take();
    let supported = Capability::of(family, sort, &formats);
    Ok(ModelSummary {
        architecture,
        spec,
        parameters,
        quantized,
        quantized_bytes,
        dtype,
        labels,
        unread,
        supported,
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
            let how = stored_as(checkpoint, name).or(quantization).unwrap_or(Quantization::Nf4);
            count.quantized += usize::try_from(rows * columns).unwrap_or(0);
            count.quantized_bytes += how.bytes(rows, columns);
            count.formats.insert(how.name());
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(name)
    }

    #[test]
    fn memory_is_counted_by_dtype() {
        let folder = fixture("llama3");
        let plain = inspect(&folder).unwrap();
        let memory = WeightMemory::of(Families::BUILT_IN, &folder).unwrap();
        let file = std::fs::metadata(folder.join("model.safetensors")).unwrap().len();
        assert_eq!(memory.f32, 4 * plain.parameters as u64);
        assert!(memory.f32 < file && file < memory.f32 + (8 << 10));
        assert_eq!(memory.bf16, 2 * plain.parameters as u64);
        assert!(memory.nf4 < memory.int8 && memory.int8 < memory.bf16);
        // What is in 4 bits in the files stays so.
        let of_file = WeightMemory::of(Families::BUILT_IN, &fixture("nf4-llama3")).unwrap();
        assert_eq!(of_file.bf16, of_file.nf4);
        assert_eq!(of_file.nf4, memory.nf4);
    }

    #[test]
    fn uses_depend_on_family_sort_and_files() {
        let of = |name: &str| inspect(&fixture(name)).unwrap().supported;
        let has = |name: &str, capability| of(name).contains(&capability);
        for name in ["llama3", "gpt2", "flan", "bart", "pegasus", "mixtral"] {
            assert!(has(name, Capability::Policy), "{name}");
        }
        for name in ["roberta", "llama-reward", "bart-classifier"] {
            assert!(!has(name, Capability::Policy) && has(name, Capability::Classifier), "{name}");
            assert!(!has(name, Capability::Gguf), "{name}");
        }
        assert!(!has("pegasus", Capability::Classifier));
        assert!(has("t5gemma", Capability::Policy) && !has("t5gemma", Capability::Classifier));
        assert!(
            has("flan", Capability::TokenClassifier) && !has("bart", Capability::TokenClassifier)
        );
        assert!(has("qwen3-token", Capability::TokenClassifier));
        assert!(has("roberta", Capability::TokenClassifier));
        assert!(!has("olmo2", Capability::TokenClassifier));
        assert!(has("llama3", Capability::Gguf) && !has("gpt2", Capability::Gguf));
        assert!(has("llama3", Capability::AllWeights));
        for name in ["nf4-llama3", "int8-llama3"] {
            assert!(!has(name, Capability::AllWeights) && !has(name, Capability::Gguf), "{name}");
        }
        assert!(has("nf4-llama3", Capability::Nf4) && !has("nf4-llama3", Capability::Int8));
    }
}
