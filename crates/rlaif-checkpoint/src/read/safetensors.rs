//! The safetensors header: eight bytes of length, a JSON object, then the tensors' bytes.
//!
//! Format: <https://github.com/huggingface/safetensors#format>. The `safetensors` crate parses the
//! same header, but lets the later of two equal keys win and does not say which tensor is wrong.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::contents::{Contents, Entry, Layout};
use super::positioned::Shard;
use crate::json::{Pairs, parse_json};
use crate::{CheckpointError, Dtype};

/// The header limit of the reference implementation.
pub(crate) const HEADER_LIMIT: u64 = 100_000_000;
/// Bytes of the header's little-endian length, which stands before the header.
const LENGTH_BYTES: u64 = 8;
/// The one key that is not a tensor.
pub(crate) const METADATA: &str = "__metadata__";

/// Parses the header and checks it against the file.
pub(super) fn read(shard: &Shard) -> Result<Contents, CheckpointError> {
    let file = shard.path();
    let Some(after_length) = shard.len().checked_sub(LENGTH_BYTES) else {
        return Err(CheckpointError::FileLength {
            file: file.to_owned(),
            expected: LENGTH_BYTES,
            found: shard.len(),
        });
    };
    let mut length = [0; LENGTH_BYTES as usize];
    shard.read_at(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    let limit = HEADER_LIMIT.min(after_length);
    if length > limit {
        return Err(CheckpointError::HeaderLength { file: file.to_owned(), limit, found: length });
    }
    let mut header = vec![0; length as usize];
    shard.read_at(&mut header, LENGTH_BYTES)?;
    let header: Header = parse_json(file, &header)?;

    let contents = check(file, header, LENGTH_BYTES + length)?;
    let data_end = contents.entries.iter().map(Entry::end).max();
    let expected = data_end.unwrap_or(LENGTH_BYTES + length);
    if shard.len() != expected {
        let found = shard.len();
        return Err(CheckpointError::FileLength { file: file.to_owned(), expected, found });
    }
    Ok(contents)
}

/// A tensor as written in the header.
#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    /// Offsets from the end of the header.
    data_offsets: (u64, u64),
}

/// The header in the order of the file.
struct Header {
    tensors: Vec<(String, RawTensor)>,
    /// One element for each key `__metadata__`.
    metadata: Vec<Vec<(String, String)>>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { tensors: Vec::new(), metadata: Vec::new() };
                while let Some(key) = map.next_key::<String>()? {
                    if key == METADATA {
                        header.metadata.push(map.next_value::<Pairs<String>>()?.0);
                    } else {
                        header.tensors.push((key, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Checks types, shapes and offsets; tensors must follow one another without overlap or gap.
fn check(file: &Path, header: Header, data_begin: u64) -> Result<Contents, CheckpointError> {
    if header.metadata.len() > 1 {
        return Err(CheckpointError::DuplicateKey {
            file: file.to_owned(),
            object: "the header",
            key: METADATA.to_owned(),
        });
    }
    let metadata = header.metadata.into_iter().next().unwrap_or_default();
    let mut keys = HashSet::new();
    if let Some((key, _)) = metadata.iter().find(|(key, _)| !keys.insert(key)) {
        return Err(CheckpointError::DuplicateKey {
            file: file.to_owned(),
            object: METADATA,
            key: key.clone(),
        });
    }

    let mut tensors = header.tensors;
    let mut names = HashSet::new();
    if let Some((name, _)) = tensors.iter().find(|(name, _)| !names.insert(name)) {
        return Err(CheckpointError::DuplicateTensor {
            file: file.to_owned(),
            tensor: name.clone(),
        });
    }
    tensors.sort_by_key(|(_, raw)| raw.data_offsets);
    let mut entries = Vec::with_capacity(tensors.len());
    let mut expected = 0;
    for (name, raw) in tensors {
        let (begin, end) = raw.data_offsets;
        let entry = tensor(file, name, &raw, data_begin)?;
        if begin != expected {
            return Err(CheckpointError::NotContiguous {
                file: file.to_owned(),
                tensor: entry.name,
                expected,
                found: begin,
            });
        }
        expected = end;
        entries.push(entry);
    }
    Ok(Contents { entries, metadata })
}

fn tensor(
    file: &Path,
    name: String,
    raw: &RawTensor,
    data_begin: u64,
) -> Result<Entry, CheckpointError> {
    let file = || file.to_owned();
    let Some(dtype) = Dtype::from_name(&raw.dtype) else {
        let dtype = raw.dtype.clone();
        return Err(CheckpointError::UnsupportedDtype { file: file(), tensor: name, dtype });
    };
    let overflow = |tensor| CheckpointError::ShapeOverflow {
        file: file(),
        tensor,
        dtype,
        shape: raw.shape.clone(),
    };
    let shape: Option<Vec<usize>> =
        raw.shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let Some(shape) = shape else { return Err(overflow(name)) };
    let Some(bytes) = dtype.bytes_of(&shape) else { return Err(overflow(name)) };

    let (begin, end) = raw.data_offsets;
    let Some(span) = end.checked_sub(begin) else {
        return Err(CheckpointError::OffsetOrder { file: file(), tensor: name, begin, end });
    };
    if span != bytes {
        return Err(CheckpointError::ByteCount {
            file: file(),
            tensor: name,
            dtype,
            shape,
            expected: bytes,
            found: span,
        });
    }
    // The sum with the header's length must fit as well, or later additions would wrap.
    let Some(absolute) =
        data_begin.checked_add(begin).filter(|_| data_begin.checked_add(end).is_some())
    else {
        return Err(overflow(name));
    };
    Ok(Entry { name, dtype, shape, bytes, layout: Layout::Contiguous { begin: absolute } })
}
