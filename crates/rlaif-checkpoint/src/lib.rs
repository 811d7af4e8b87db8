//! The files of a Hugging Face model folder, as bytes and configuration. No libtorch.
//!
//! ```text
//! model.safetensors, shards + index, pytorch_model.bin ──► Checkpoint ──► bytes into the caller's memory
//! TensorSource ──► FolderWriter ──► a folder that transformers, or for adapters peft, loads
//! config.json, generation_config.json, adapter_config.json ◄──► serde types
//! ```
//!
//! Files come from strangers. Nothing in a file is executed, a size stated in a file is compared
//! with the file before it is trusted, and every refusal is a [`CheckpointError`] that names the
//! file, the tensor or field, the expected value and the found value.
//!
//! Files are read by position, not mapped into memory: one copy from the page cache into the memory
//! the caller gives, and a file that another process truncates meanwhile is an error, not a signal.

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod dtype;
mod error;
mod interrupted;
mod json;
mod peft;
mod read;
mod write;

pub use dtype::Dtype;
pub use error::CheckpointError;
pub use json::{read_json, read_json_if_present};
pub use peft::{
    AdapterConfig, AdapterKey, AdapterRules, Initialisation, ModuleNames, TargetModules, TaskType,
    TrainedBiases,
};
pub use read::{Checkpoint, Gguf, GgufTensor, GgufType, GgufValue, TensorInfo};
pub use write::{
    CardSection, DEFAULT_SHARD_BYTES, FolderWriter, GgufSpec, ModelCard, TensorBytes, TensorSource,
    TensorSpec, write_gguf, write_json, write_safetensors,
};

/// `true` if `name` is that of a file in the same folder, on every system.
fn is_plain_name(name: &str) -> bool {
    use std::path::{Component, Path};
    // A folder that loads on one system must load on all, so Windows' separators count everywhere.
    !name.contains(['\\', '/', ':', '\0'])
        && matches!(Path::new(name).components().next(), Some(Component::Normal(_)))
}
