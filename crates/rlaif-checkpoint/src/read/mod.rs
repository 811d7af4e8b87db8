//! Reads weights files into the caller's memory.

mod checkpoint;
mod contents;
mod gguf;
mod positioned;
mod safetensors;
mod torch;

pub use checkpoint::{Checkpoint, TensorInfo};
pub use gguf::{Gguf, GgufTensor, GgufType, GgufValue};

pub(crate) use safetensors::{HEADER_LIMIT, METADATA};

use std::path::{Path, PathBuf};

use crate::CheckpointError;
use contents::Contents;
use positioned::Shard;

/// Recognises the format by the first bytes, regardless of the file's name.
fn read_contents(shard: &Shard) -> Result<Contents, CheckpointError> {
    let first = shard.first_bytes::<64>()?;
    crate::json::refuse_lfs_pointer(shard.path(), &first)?;
    // Byte 8 opens the header of a safetensors file; the eight bytes before it can have any value.
    if first.get(8) == Some(&b'{') || has_extension(shard.path(), "safetensors") {
        safetensors::read(shard)
    } else if first.starts_with(b"PK\x03\x04") {
        torch::read_zip(shard)
    } else if torch::is_legacy(&first) {
        torch::read_legacy(shard)
    } else {
        Err(CheckpointError::UnknownFormat {
            file: shard.path().to_owned(),
            found: first.into_iter().take(16).collect(),
        })
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn file_names(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    let read = |source| CheckpointError::Read { path: PathBuf::from(folder), source };
    let mut names = std::fs::read_dir(folder)
        .map_err(read)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(read)?;
    names.sort();
    Ok(names)
}
