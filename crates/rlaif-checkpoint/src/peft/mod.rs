//! The files of a LoRA adapter as peft writes them.

mod config;
mod keys;
mod raw;
mod rules;

pub use config::{
    AdapterConfig, Initialisation, ModuleNames, TargetModules, TaskType, TrainedBiases,
};
pub use keys::AdapterKey;
pub use rules::AdapterRules;

pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(crate) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
