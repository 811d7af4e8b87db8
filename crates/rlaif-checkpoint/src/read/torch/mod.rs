//! Files that `torch.save` wrote: a pickle that describes tensors, beside the storages they view.

mod globals;
mod legacy;
mod unpickle;
mod value;
mod zipped;

pub(super) use legacy::{is_legacy, read_legacy};
pub(super) use zipped::read_zip;

use std::collections::HashMap;
use std::path::Path;

use super::contents::{Contents, Entry, Layout};
use crate::{CheckpointError, Dtype};
use globals::Elements;
use value::{PickledTensor, Unpickled};

/// Memory limit of a view that repeats stored elements, such as the result of `expand`, in bytes.
const EXPANDED_LIMIT: u64 = 1 << 28;

/// The position of a storage in the file.
#[derive(Debug, Clone, Copy)]
struct Stored {
    begin: u64,
    bytes: u64,
}

/// Locates each tensor of a state dict within its storage.
fn place(
    file: &Path,
    pickle: &Unpickled,
    storages: &HashMap<String, Stored>,
) -> Result<Contents, CheckpointError> {
    let mut entries = Vec::new();
    for (name, tensor, key) in pickle.state_dict(file)? {
        let Some(stored) = storages.get(key) else {
            return Err(CheckpointError::MissingRecord {
                file: file.to_owned(),
                record: format!("data/{key}"),
            });
        };
        entries.push(entry(file, name, tensor, *stored)?);
    }
    Ok(Contents { entries, metadata: Vec::new() })
}

fn entry(
    file: &Path,
    name: &str,
    tensor: &PickledTensor,
    stored: Stored,
) -> Result<Entry, CheckpointError> {
    let dtype = supported(file, name, tensor.elements)?;
    let size = dtype.size() as u64;
    let overflow = || CheckpointError::ShapeOverflow {
        file: file.to_owned(),
        tensor: name.to_owned(),
        dtype,
        shape: tensor.shape.clone(),
    };
    let shape: Option<Vec<usize>> =
        tensor.shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let shape = shape.ok_or_else(overflow)?;
    let bytes = dtype.bytes_of(&shape).ok_or_else(overflow)?;

    // The storage size that the pickle states, and the size present in the file.
    let stated = match tensor.storage_elements {
        Elements::Untyped => tensor.storage_numel / size,
        Elements::Of(_) | Elements::Unsupported(_) => tensor.storage_numel,
    };
    let available = stated.min(stored.bytes / size);
    let needed = elements_needed(tensor).ok_or_else(overflow)?;
    if needed > available {
        return Err(CheckpointError::OutsideStorage {
            file: file.to_owned(),
            tensor: name.to_owned(),
            needed,
            available,
        });
    }
    if bytes > stored.bytes && bytes > EXPANDED_LIMIT {
        return Err(CheckpointError::Expanded {
            file: file.to_owned(),
            tensor: name.to_owned(),
            limit: EXPANDED_LIMIT,
            found: bytes,
        });
    }
    // `needed` elements lie within the file, so neither sum can overflow.
    let begin = stored.begin + if bytes == 0 { 0 } else { tensor.offset * size };
    let layout = if is_contiguous(tensor) {
        Layout::Contiguous { begin }
    } else {
        let strides = tensor.stride.iter().zip(&tensor.shape);
        // The stride of a dimension of size 1 is never used, and may have any value.
        let strides = strides.map(|(&stride, &dim)| if dim == 1 { 0 } else { stride * size });
        Layout::Strided { begin, strides: strides.collect() }
    };
    Ok(Entry { name: name.to_owned(), dtype, shape, bytes, layout })
}

fn supported(file: &Path, name: &str, elements: Elements) -> Result<Dtype, CheckpointError> {
    let dtype = match elements {
        Elements::Of(dtype) => return Ok(dtype),
        Elements::Untyped => "untyped bytes",
        Elements::Unsupported(dtype) => dtype,
    };
    Err(CheckpointError::UnsupportedDtype {
        file: file.to_owned(),
        tensor: name.to_owned(),
        dtype: dtype.to_owned(),
    })
}

/// One past the last element of the storage that the tensor touches; `None` beyond 2^64.
fn elements_needed(tensor: &PickledTensor) -> Option<u64> {
    if tensor.shape.contains(&0) {
        return Some(0);
    }
    let mut last = tensor.offset;
    for (&dim, &stride) in tensor.shape.iter().zip(&tensor.stride) {
        last = last.checked_add((dim - 1).checked_mul(stride)?)?;
    }
    last.checked_add(1)
}

fn is_contiguous(tensor: &PickledTensor) -> bool {
    if tensor.shape.contains(&0) {
        return true;
    }
    let mut expected = 1;
    for (&dim, &stride) in tensor.shape.iter().zip(&tensor.stride).rev() {
        if dim != 1 && stride != expected {
            return false;
        }
        expected *= dim;
    }
    true
}
