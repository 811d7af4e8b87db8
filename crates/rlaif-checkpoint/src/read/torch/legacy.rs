//! The format of `torch.save` before PyTorch 1.6, which older checkpoints on the hub still have.
//!
//! Five pickles (a magic number, the protocol, the byte order, the state dict, the storages' keys),
//! then each storage: its number of elements as a little-endian 64-bit integer, and its bytes.
//! Layout: `_legacy_save` in `torch/serialization.py`.

use std::collections::HashMap;
use std::io::BufReader;

use super::super::contents::Contents;
use super::super::positioned::Shard;
use super::globals::Elements;
use super::unpickle::unpickle;
use super::{Stored, place};
use crate::CheckpointError;

/// 0x1950a86a20f9469cfc6c as a pickled integer of ten bytes.
const MAGIC: [u8; 12] = [0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;
const COUNT_BYTES: u64 = 8;

/// `true` if these are the first bytes of such a file.
pub(in super::super) fn is_legacy(first: &[u8]) -> bool {
    // The pickle protocol decides if two or eleven bytes of framing come first.
    first.first() == Some(&0x80) && first.windows(MAGIC.len()).any(|window| window == MAGIC)
}

pub(in super::super) fn read_legacy(shard: &Shard) -> Result<Contents, CheckpointError> {
    let file = shard.path();
    let mut reader = BufReader::new(shard.section(0, shard.len()));
    let mut position = 0;
    let mut next = || unpickle(file, &mut reader, &mut position);
    let bad = |expected, found| CheckpointError::Pickle {
        file: file.to_owned(),
        offset: 0,
        expected,
        found,
    };

    next()?;
    let protocol = next()?.integer();
    if protocol != Some(PROTOCOL) {
        return Err(bad("protocol 1001 of torch.save", format!("{protocol:?}")));
    }
    if next()?.boolean("little_endian") != Some(true) {
        return Err(bad("little-endian storages", "others".to_owned()));
    }
    let state = next()?;
    let keys = next()?;
    let keys =
        keys.strings().ok_or_else(|| bad("a list of storages", "something else".to_owned()))?;

    let mut element_sizes = HashMap::new();
    for (name, tensor, key) in state.state_dict(file)? {
        let size = match tensor.storage_elements {
            Elements::Of(dtype) => dtype.size() as u64,
            Elements::Untyped => 1,
            Elements::Unsupported(_) => {
                super::supported(file, name, tensor.storage_elements)?;
                continue;
            }
        };
        element_sizes.insert(key, size);
    }
    let mut storages = HashMap::new();
    for key in keys {
        let Some(&size) = element_sizes.get(key) else {
            // The length in bytes is unknown, and so is the beginning of the next storage.
            return Err(bad("only storages that tensors view", format!("storage {key} besides")));
        };
        let mut count = [0; COUNT_BYTES as usize];
        let truncated = |expected| CheckpointError::FileLength {
            file: file.to_owned(),
            expected,
            found: shard.len(),
        };
        let begin = position + COUNT_BYTES;
        if begin > shard.len() {
            return Err(truncated(begin));
        }
        shard.read_at(&mut count, position)?;
        let bytes = u64::from_le_bytes(count).saturating_mul(size);
        let end = begin.saturating_add(bytes);
        if end > shard.len() {
            return Err(truncated(end));
        }
        storages.insert(key.to_owned(), Stored { begin, bytes });
        position = end;
    }
    place(file, &state, &storages)
}
