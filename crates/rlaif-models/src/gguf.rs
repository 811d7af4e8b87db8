//! llama.cpp's GGUF files: from a file to a model folder, and from a model to a file.
//!
//! A file contains metadata, a tokenizer and tensors, of which most may be quantized. Format:
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. The names of the metadata and of the tensors are
//! those of llama.cpp's `convert_hf_to_gguf.py`.

mod export;
mod import;
mod layout;
mod pre_tokenizer;
mod source;
mod tokenizer;
mod vocabulary;

pub use export::{GgufFormat, export_gguf};
pub use import::import_gguf;
pub use layout::{GgufLayout, GgufRotary, GgufTextStart};
pub use vocabulary::GgufTokenizer;
