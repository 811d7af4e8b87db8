//! Model folders and single files, written aside and renamed.

mod aside;
mod card;
mod folder;
mod gguf;
mod source;
mod weights;

pub use aside::write_json;
pub use card::{CardSection, ModelCard};
pub use folder::FolderWriter;
pub use gguf::{GgufSpec, write_gguf};
pub use source::{TensorBytes, TensorSource, TensorSpec};
pub use weights::{DEFAULT_SHARD_BYTES, write_safetensors};
