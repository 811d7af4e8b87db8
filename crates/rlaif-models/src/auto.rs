//! config.json to model: the one place that lists the architectures.

use std::{collections::BTreeSet, path::Path};

use rlaif_checkpoint::Checkpoint;
use rlaif_lm::{
    CausalPolicy, DecodeState, Forward, LmError, LmSpec, Parameters, Policy, Room, Seq2SeqPolicy,
    SequenceClassifier, TokenBatch, VocabHead,
};
use tch::{Device, Kind, Tensor};

use crate::{
    classifier::Classifier,
    config::Config,
    error::ModelError,
    llama::Llama,
    lora::ModelAdapters,
    save::{self, SaveOptions},
    t5::T5,
    weights::{self, Source},
};

/// How weights are to be loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadOptions {
    /// Where they go.
    pub device: Device,
    /// What kind they become; `None` leaves them as the checkpoint has them.
    pub kind: Option<Kind>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { device: Device::Cpu, kind: None }
    }
}

/// What [`ModelError::UnknownArchitecture`] lists.
const KNOWN: &str = "T5ForConditionalGeneration (model_type t5); LlamaForCausalLM and \
                     LlamaForSequenceClassification (llama), and the same of mistral, qwen2 and \
                     qwen3; RobertaForSequenceClassification (roberta); \
                     BertForSequenceClassification (bert)";

/// What config.json describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    T5,
    Llama,
    LlamaClassifier,
    Roberta,
}

impl Sort {
    pub(crate) fn of(config: &Config) -> Result<Self, ModelError> {
        let unknown = |field, found: &str| ModelError::UnknownArchitecture {
            file: config.path().to_owned(),
            field,
            found: found.to_owned(),
            known: KNOWN,
        };
        let model_type = config.text("model_type").unwrap_or("");
        let architecture = config
            .fields()
            .get("architectures")
            .and_then(|list| list.get(0))
            .and_then(|name| name.as_str())
            .unwrap_or("");
        let classifies = architecture.ends_with("ForSequenceClassification");
        let generates = architecture.is_empty()
            || architecture.ends_with("ForCausalLM")
            || architecture.ends_with("ForConditionalGeneration")
            || architecture.ends_with("WithLMHeadModel");
        Ok(match model_type {
            "t5" if generates => Self::T5,
            "llama" | "mistral" | "qwen2" | "qwen3" if classifies => Self::LlamaClassifier,
            "llama" | "mistral" | "qwen2" | "qwen3" if generates => Self::Llama,
            "roberta" | "bert" if classifies || architecture.is_empty() => Self::Roberta,
            "t5" | "llama" | "mistral" | "qwen2" | "qwen3" | "roberta" | "bert" => {
                return Err(unknown("architectures", architecture));
            }
            other => return Err(unknown("model_type", other)),
        })
    }
}

/// A language model of any architecture built here, as a [`Policy`].
#[derive(Debug)]
pub enum LanguageModel {
    /// T5 and Flan-T5.
    T5(Seq2SeqPolicy<T5>),
    /// The Llama family.
    Llama(CausalPolicy<Llama>),
}

impl LanguageModel {
    /// Loads a model from a folder in Hugging Face's layout.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] for files that cannot be
    /// read, [`ModelError::UnknownArchitecture`], [`ModelError::WrongSort`] for a classifier,
    /// [`ModelError::UnsupportedField`] and [`ModelError::BadField`] for a configuration that
    /// cannot be honoured, [`ModelError::Tensors`] with every tensor that does not fit.
    pub fn load(folder: &Path, options: LoadOptions) -> Result<Self, ModelError> {
        from_folder(folder, options, Self::build)
    }

    /// A model with random weights, drawn from libtorch's generator: seed it before.
    ///
    /// # Errors
    /// As [`Self::load`], for the configuration.
    ///
    /// ```
    /// use rlaif_lm::Policy;
    /// use rlaif_models::{Config, LanguageModel};
    /// use tch::{Device, Kind};
    /// let config = Config::from_value(serde_json::json!({
    ///     "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
    ///     "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
    /// }));
    /// tch::manual_seed(7);
    /// let policy = LanguageModel::random(config, Kind::Float, Device::Cpu)?;
    /// assert_eq!(policy.spec().hidden_size, 16);
    /// # Ok::<(), rlaif_models::ModelError>(())
    /// ```
    pub fn random(config: Config, kind: Kind, device: Device) -> Result<Self, ModelError> {
        Self::build(config, Source::random(kind, device))
    }

    fn build(config: Config, source: Source<'_>) -> Result<Self, ModelError> {
        match Sort::of(&config)? {
            Sort::T5 => Ok(Self::T5(Seq2SeqPolicy(T5::build(config, source)?))),
            Sort::Llama => Ok(Self::Llama(CausalPolicy(Llama::build(config, source)?))),
            Sort::LlamaClassifier | Sort::Roberta => {
                Err(wrong_sort(&config, "a language model; load it as a classifier"))
            }
        }
    }

    /// The model's config.json.
    pub fn config(&self) -> &Config {
        match self {
            Self::T5(policy) => &policy.0.frame().config,
            Self::Llama(policy) => &policy.0.frame().config,
        }
    }

    /// The adapters, to be added, switched, merged and saved.
    pub fn adapters(&mut self) -> ModelAdapters<'_> {
        ModelAdapters::new(match self {
            Self::T5(policy) => policy.0.parts(),
            Self::Llama(policy) => policy.0.parts(),
        })
    }

    /// Writes a folder that transformers loads. Adapters are not in it: merge them first, or save
    /// them by [`ModelAdapters::save`].
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if it cannot be written; nothing is left behind then.
    pub fn save(&self, folder: &Path, options: &SaveOptions<'_>) -> Result<(), ModelError> {
        save::write_model(folder, self.config(), self.parameters(), options)
    }

    fn policy(&self) -> &dyn Policy {
        match self {
            Self::T5(policy) => policy,
            Self::Llama(policy) => policy,
        }
    }
}

impl Policy for LanguageModel {
    fn spec(&self) -> &LmSpec {
        self.policy().spec()
    }

    fn response_hidden(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        self.policy().response_hidden(prompts, responses, forward)
    }

    fn branch_hidden(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        self.policy().branch_hidden(prompts, responses, forward)
    }

    fn head(&self, forward: Forward<'_>) -> Result<VocabHead, LmError> {
        self.policy().head(forward)
    }

    fn open(&self, room: Room) -> Result<DecodeState, LmError> {
        self.policy().open(room)
    }

    fn enter(
        &self,
        state: &mut DecodeState,
        prompts: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Vec<u32>, LmError> {
        self.policy().enter(state, prompts, forward)
    }

    fn step(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        self.policy().step(state, tokens, forward)
    }

    fn parameters(&self) -> &Parameters {
        self.policy().parameters()
    }
}

/// Reads a folder for what builds a model of it.
pub(crate) fn from_folder<M>(
    folder: &Path,
    options: LoadOptions,
    build: impl FnOnce(Config, Source<'_>) -> Result<M, ModelError>,
) -> Result<M, ModelError> {
    let config = Config::read(folder)?;
    let checkpoint = Checkpoint::open(folder)?;
    build(config, Source::checkpoint(&checkpoint, options.kind, options.device))
}

/// Whether a folder's config.json describes a classifier or a language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelSort {
    /// [`LanguageModel::load`] reads it.
    LanguageModel,
    /// [`Classifier::load`] reads it.
    Classifier,
}

impl ModelSort {
    /// What `config` describes.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`] lists what is known.
    pub fn of(config: &Config) -> Result<Self, ModelError> {
        Ok(match Sort::of(config)? {
            Sort::T5 | Sort::Llama => Self::LanguageModel,
            Sort::LlamaClassifier | Sort::Roberta => Self::Classifier,
        })
    }
}

/// What a model folder holds, learnt without reading a weight.
#[derive(Debug)]
pub struct Summary {
    /// The first of `architectures` in config.json, or its `model_type`.
    pub architecture: String,
    /// Sizes, limits and special tokens.
    pub spec: LmSpec,
    /// Scalars, tied ones once.
    pub parameters: usize,
    /// Kind of the weights: `f32`, `bf16`, `f16`, or several joined by `+`.
    pub dtype: String,
    /// A classifier's labels in the order of its logits.
    pub labels: Vec<String>,
}

/// Checks that a folder's weights fit its config.json, and says what they are. Headers alone are
/// read, so it takes a moment whatever the size.
///
/// # Errors
/// As [`LanguageModel::load`].
pub fn inspect(folder: &Path) -> Result<Summary, ModelError> {
    let config = Config::read(folder)?;
    let checkpoint = Checkpoint::open(folder)?;
    let kinds: BTreeSet<&str> =
        checkpoint.tensors().values().filter_map(|info| weights::dtype_name(info.dtype)).collect();
    let architecture = architecture(&config);
    let source = Source::headers(&checkpoint);
    let (spec, parameters, labels) = match ModelSort::of(&config)? {
        ModelSort::LanguageModel => {
            let model = LanguageModel::build(config, source)?;
            (model.spec().clone(), model.parameters().count(), Vec::new())
        }
        ModelSort::Classifier => {
            let model = Classifier::build(config, source)?;
            (model.spec().clone(), model.parameters().count(), model.labels().to_vec())
        }
    };
    let dtype = kinds.into_iter().collect::<Vec<_>>().join("+");
    Ok(Summary { architecture, spec, parameters, dtype, labels })
}

fn architecture(config: &Config) -> String {
    config
        .fields()
        .get("architectures")
        .and_then(|list| list.get(0))
        .and_then(|name| name.as_str())
        .or(config.text("model_type"))
        .unwrap_or("")
        .to_owned()
}

pub(crate) fn wrong_sort(config: &Config, wanted: &'static str) -> ModelError {
    ModelError::WrongSort {
        file: config.path().to_owned(),
        architecture: architecture(config),
        wanted,
    }
}
