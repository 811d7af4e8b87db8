//! Language models and classifiers on libtorch, in and out of Hugging Face's files.
//!
//! | architecture | file | checkpoints |
//! |---|---|---|
//! | T5, Flan-T5 | `t5.rs` | `google-t5/t5-*`, `google/flan-t5-*` |
//! | BART, mBART, PEGASUS | `bart.rs` | `facebook/bart-large-cnn`, `google/pegasus-xsum` |
//! | T5Gemma | `llama/t5gemma.rs` | `google/t5gemma-*` |
//! | Llama 2 and 3, Mistral, Qwen2, Qwen3, GPT-2, GPT-NeoX, Gemma 2 and 3, Phi-3, OLMo 2, SmolLM3, Granite | `llama.rs` | `meta-llama/Llama-3.*`, `Qwen/Qwen2.5-*`, `openai-community/gpt2`, ... |
//! | the same with a classification head | `llama.rs` | most LLM reward models |
//! | BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, ELECTRA, ALBERT with a classification head | `roberta.rs` | `facebook/roberta-hate-speech-dynabench-r4-target` |
//!
//! [`LanguageModel`] and [`Classifier`] load any of them by config.json. The families are a table,
//! [`Families`]: a model is one file, one row and its goldens. A program adds a family of its own by
//! a row in [`LoadOptions`], see [`extend`].

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod adapter;
mod architecture;
mod bart;
mod classifier;
mod config;
mod convert;
mod deberta;
mod dimensions;
mod error;
mod family;
mod files;
mod footprint;
mod frame;
mod gguf;
mod inspect;
mod labels;
mod language_model;
mod layers;
mod llama;
mod load;
mod load_files;
mod lora;
mod modernbert;
mod quantized;
mod recompute;
mod roberta;
mod rope;
mod rows;
mod save;
mod seq2seq;
mod setup;
mod sort;
mod t5;
mod vocabulary;
mod weights;
mod weights_writer;

pub use architecture::Architecture;
pub use classifier::Classifier;
pub use config::Config;
pub use convert::{ConvertError, classifier_with_labels, saved_value_head, value_function};
pub use error::{ModelError, TensorProblem};
pub use family::{Families, Family};
pub use files::{ADAPTER, AdapterBase, ModelFiles, ModelNames};
pub use footprint::{
    AnswerBatch, GenerationTime, HeldModel, HeldModels, MemoryError, MemoryNeeded, MemoryPlan,
    ReferenceCopy, TrainedWeights,
};
pub use gguf::{
    GgufFormat, GgufLayout, GgufRotary, GgufTextStart, GgufTokenizer, export_gguf, import_gguf,
};
pub use inspect::{Capability, ModelSummary, WeightMemory, inspect, inspect_of};
pub use language_model::LanguageModel;
pub use load::LoadOptions;
pub use lora::ModelAdapters;
pub use rlaif_checkpoint::{
    AdapterConfig, CardSection, CheckpointError, Initialisation, ModelCard, ModuleNames,
    TargetModules, TaskType, TrainedBiases,
};
pub use rlaif_torch::Quantization;
pub use save::SaveOptions;
pub use setup::{Lora, LoraVariant, PolicySetup};
pub use sort::ModelSort;
pub use vocabulary::{NewRows, NewRowsInit, VocabularySize};
pub use weights_writer::WeightsWriter;

/// Building blocks for a custom family: the row, the contracts that its layers implement, and the
/// layers that adapters can be put on.
///
/// A variant of Llama is data: a [`LlamaVariant`](extend::LlamaVariant) and a row. Any other model
/// implements [`CausalLm`](rlaif_lm::CausalLm) or [`Seq2SeqLm`](rlaif_lm::Seq2SeqLm) on layers that
/// it takes from a [`ModelTensors`](extend::ModelTensors), and [`Framed`](extend::Framed).
pub mod extend {
    pub use crate::{
        adapter::Pass,
        architecture::{BuiltClassifier, ClassifierLayers, Framed, LanguageLayers},
        dimensions::Dimensions,
        family::{Classifies, Generates, TokenHead, as_read},
        frame::{Frame, Parts},
        labels::Labels,
        layers::{Bias, Embedding, LayerNorm, Linear, RmsNorm},
        llama::{
            BiasRule, ExpertRule, GateRule, Llama, LlamaClassifier, LlamaNames, LlamaVariant,
            NormPlaces, NormRule, Positions, Projections, QueryKeyNorm, RopeNames, ScalingRule,
            WindowRule, dimensions as llama_dimensions,
        },
        weights::{Init, MatrixOrder, ModelTensors, TensorTree},
    };
}
