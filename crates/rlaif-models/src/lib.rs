//! Language models and classifiers on libtorch, in and out of Hugging Face's files.
//!
//! | architecture | file | checkpoints |
//! |---|---|---|
//! | T5, Flan-T5 | `t5.rs` | `google-t5/t5-*`, `google/flan-t5-*` |
//! | Llama 2 and 3, Mistral, Qwen2, Qwen3 | `llama.rs` | `meta-llama/Llama-3.*`, `Qwen/Qwen2.5-*`, ... |
//! | the same with a classification head | `llama.rs` | most LLM reward models |
//! | BERT, RoBERTa with a classification head | `roberta.rs` | `facebook/roberta-hate-speech-dynabench-r4-target` |
//!
//! [`LanguageModel`] and [`Classifier`] load any of them by config.json. To add an architecture,
//! write one file like these and an arm in `auto.rs`.

mod adapt;
mod auto;
mod classifier;
mod config;
mod error;
mod frame;
mod labels;
mod layers;
mod llama;
mod lora;
mod roberta;
mod rows;
mod save;
mod t5;
mod weights;

pub use auto::{LanguageModel, LoadOptions, ModelSort, Summary, inspect};
pub use classifier::Classifier;
pub use config::Config;
pub use error::{ModelError, TensorProblem};
pub use llama::Llama;
pub use lora::ModelAdapters;
pub use rlaif_checkpoint::{
    AdapterConfig, CardSection, CheckpointError, ModelCard, ModuleNames, TargetModules, TaskType,
};
pub use save::SaveOptions;
pub use t5::T5;
