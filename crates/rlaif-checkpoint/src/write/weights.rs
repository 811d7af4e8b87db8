//! Tensors to safetensors, whole or in shards with an index.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::Path;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::json;

use super::aside::{write_error, write_file, write_json};
use super::source::{TensorSource, TensorSpec};
use crate::read::{HEADER_LIMIT, METADATA};
use crate::{CheckpointError, Dtype};

/// Above this size in bytes weights are split into several files: 5 GB.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// The header's length is a multiple of this, so that the data are aligned.
const ALIGNMENT: usize = 8;

/// Writes one safetensors file, aside and renamed.
///
/// Wide element types come first, so that every tensor is aligned to its elements, and within one
/// type tensors are sorted by name: the same tensors give the same bytes. `transformers` insists on
/// `"format": "pt"` in the metadata, so it is always there.
///
/// # Errors
///
/// [`CheckpointError::Write`], [`CheckpointError::Source`] and [`CheckpointError::SourceBytes`];
/// nothing is left behind then. [`CheckpointError::DuplicateTensor`] and
/// [`CheckpointError::ReservedName`] before anything is written.
///
/// An example stands at [`TensorBytes`](crate::TensorBytes).
pub fn write_safetensors(
    path: &Path,
    source: &dyn TensorSource,
    metadata: &BTreeMap<String, String>,
) -> Result<(), CheckpointError> {
    let tensors = sized(path, source)?;
    write_shard(path, source, tensors.iter().collect(), metadata)
}

/// Writes `model.safetensors`, or above `shard_bytes` shards and `model.safetensors.index.json`.
pub(super) fn write_weights(
    folder: &Path,
    source: &dyn TensorSource,
    shard_bytes: u64,
) -> Result<(), CheckpointError> {
    let whole = folder.join("model.safetensors");
    let tensors = sized(&whole, source)?;
    let metadata = BTreeMap::new();
    let shards = split(&tensors, shard_bytes);
    if shards.len() <= 1 {
        return write_shard(&whole, source, tensors.iter().collect(), &metadata);
    }
    let count = shards.len();
    let mut weight_map = BTreeMap::new();
    for (number, shard) in shards.into_iter().enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", number + 1);
        weight_map.extend(shard.iter().map(|tensor| (tensor.spec.name.clone(), name.clone())));
        write_shard(&folder.join(&name), source, shard, &metadata)?;
    }
    let total: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    write_json(&folder.join("model.safetensors.index.json"), &index)
}

struct Planned {
    spec: TensorSpec,
    bytes: u64,
}

fn sized(path: &Path, source: &dyn TensorSource) -> Result<Vec<Planned>, CheckpointError> {
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    let mut total = 0u64;
    for spec in source.tensors() {
        if spec.name == METADATA {
            return Err(CheckpointError::ReservedName { tensor: spec.name });
        }
        if !names.insert(spec.name.clone()) {
            return Err(CheckpointError::DuplicateTensor {
                file: path.to_owned(),
                tensor: spec.name,
            });
        }
        // All together as well, so that no sum of them can overflow.
        let bytes = spec.dtype.bytes_of(&spec.shape);
        let sum = bytes.and_then(|bytes| total.checked_add(bytes));
        let (Some(bytes), Some(sum)) = (bytes, sum) else {
            return Err(CheckpointError::ShapeOverflow {
                file: path.to_owned(),
                tensor: spec.name,
                dtype: spec.dtype,
                shape: spec.shape.into_iter().map(|dim| dim as u64).collect(),
            });
        };
        total = sum;
        tensors.push(Planned { spec, bytes });
    }
    Ok(tensors)
}

/// Fills shards in order; a tensor above the limit has one to itself.
fn split(tensors: &[Planned], limit: u64) -> Vec<Vec<&Planned>> {
    let mut shards: Vec<Vec<&Planned>> = Vec::new();
    let mut filled = 0u64;
    for tensor in tensors {
        match shards.last_mut() {
            Some(shard) if filled.saturating_add(tensor.bytes) <= limit => {
                shard.push(tensor);
                filled += tensor.bytes;
            }
            _ => {
                shards.push(vec![tensor]);
                filled = tensor.bytes;
            }
        }
    }
    shards
}

fn write_shard(
    path: &Path,
    source: &dyn TensorSource,
    mut tensors: Vec<&Planned>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), CheckpointError> {
    tensors.sort_by(|a, b| {
        b.spec.dtype.size().cmp(&a.spec.dtype.size()).then_with(|| a.spec.name.cmp(&b.spec.name))
    });
    let header = header(path, &tensors, metadata)?;
    write_file(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(write_error(path))?;
        out.write_all(&header).map_err(write_error(path))?;
        tensors.iter().try_for_each(|tensor| write_tensor(path, source, tensor, out))
    })
}

fn header(
    path: &Path,
    tensors: &[&Planned],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, CheckpointError> {
    let mut metadata = metadata.clone();
    metadata.insert("format".to_owned(), "pt".to_owned());
    let json = serde_json::to_vec(&Header { metadata: &metadata, tensors });
    let mut header = json.map_err(|source| CheckpointError::Json {
        file: path.to_owned(),
        field: ".".to_owned(),
        source,
    })?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    if header.len() as u64 > HEADER_LIMIT {
        return Err(CheckpointError::TooLarge {
            file: path.to_owned(),
            what: "header",
            limit: HEADER_LIMIT,
            found: header.len() as u64,
        });
    }
    Ok(header)
}

struct Header<'a> {
    metadata: &'a BTreeMap<String, String>,
    tensors: &'a [&'a Planned],
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Tensor<'a> {
            dtype: Dtype,
            shape: &'a [usize],
            data_offsets: (u64, u64),
        }

        let mut map = serializer.serialize_map(Some(self.tensors.len() + 1))?;
        map.serialize_entry(METADATA, self.metadata)?;
        let mut begin = 0;
        for Planned { spec, bytes } in self.tensors {
            let data_offsets = (begin, begin + bytes);
            let tensor = Tensor { dtype: spec.dtype, shape: &spec.shape, data_offsets };
            map.serialize_entry(&spec.name, &tensor)?;
            begin += bytes;
        }
        map.end()
    }
}

fn write_tensor(
    path: &Path,
    source: &dyn TensorSource,
    tensor: &Planned,
    out: &mut dyn Write,
) -> Result<(), CheckpointError> {
    let name = &tensor.spec.name;
    let mut meter = Meter { out, left: tensor.bytes, written: 0, failure: None };
    let outcome = source.write(name, &mut meter);
    let Meter { written, failure, .. } = meter;
    if let Some(failure) = failure {
        return Err(write_error(path)(failure));
    }
    if written != tensor.bytes {
        // Too many bytes show as an error of the meter, not as one of the source.
        if written > tensor.bytes || outcome.is_ok() {
            return Err(CheckpointError::SourceBytes {
                tensor: name.clone(),
                expected: tensor.bytes,
                found: written,
            });
        }
    }
    outcome.map_err(|source| CheckpointError::Source { tensor: name.clone(), source })
}

/// Passes at most a tensor's bytes on, and keeps what the file said if it failed.
struct Meter<'a> {
    out: &'a mut dyn Write,
    left: u64,
    written: u64,
    failure: Option<io::Error>,
}

impl Write for Meter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            self.written += bytes.len() as u64;
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "more bytes than the tensor has",
            ));
        }
        match self.out.write(bytes) {
            Ok(written) => {
                self.written += written as u64;
                self.left -= written as u64;
                Ok(written)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let told = error.kind().into();
                self.failure = Some(error);
                Err(told)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
