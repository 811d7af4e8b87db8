//! Tensors of a checkpoint under the names of models, read with checks.

use std::path::Path;

use rlaif_checkpoint::{Checkpoint, CheckpointError, Dtype, TensorInfo};
use tch::{Device, Kind, Tensor};

use super::kinds::kind_of;
use crate::error::{ModelError, TensorProblem};

/// Reads a tensor with an expected shape.
pub(crate) fn read_checked(
    checkpoint: &Checkpoint,
    name: &str,
    shape: &[i64],
) -> Result<Tensor, TensorProblem> {
    let (stored, info) = checked(checkpoint, name, shape)?;
    let tensor = read_tensor(checkpoint, stored, shape, info.dtype).map_err(|source| {
        TensorProblem::Unreadable { name: name.to_owned(), source: Box::new(source) }
    })?;
    finite(checkpoint, stored, name, &tensor)?;
    Ok(tensor)
}

/// Refuses NaN and infinity in a tensor that was read as `stored` for the parameter `name`.
pub(super) fn finite(
    checkpoint: &Checkpoint,
    stored: &str,
    name: &str,
    tensor: &Tensor,
) -> Result<(), TensorProblem> {
    let count = not_finite(tensor);
    if count == 0 {
        return Ok(());
    }
    let file = checkpoint.file_of(stored).and_then(Path::file_name);
    let file = file.map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
    Err(TensorProblem::NotFinite { name: name.to_owned(), file, count, size: tensor.numel() })
}

/// Number of NaN and infinite values. Of a tensor without any it costs one sum.
fn not_finite(tensor: &Tensor) -> usize {
    /// Numbers of one sum: libtorch copies those of 16 bits to f32 first.
    const PART: i64 = 1 << 22;
    let flat = tensor.view([-1]);
    let length = flat.size()[0];
    let kind = if tensor.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let parts = (0..length).step_by(PART as usize);
    let mut sums = parts.map(|start| flat.narrow(0, start, PART.min(length - start)).sum(kind));
    if sums.all(|sum| sum.double_value(&[]).is_finite()) {
        return 0;
    }
    let bad = tensor.isfinite().logical_not().sum(Kind::Int64).int64_value(&[]);
    usize::try_from(bad).unwrap_or(0)
}

/// Reads a tensor of any shape to the CPU; `None` if it does not exist, or has integers.
pub(crate) fn read_if_present(
    checkpoint: &Checkpoint,
    name: &str,
) -> Result<Option<Tensor>, ModelError> {
    let Some((stored, info)) = stored(checkpoint, name) else { return Ok(None) };
    if kind_of(info.dtype).is_none() {
        return Ok(None);
    }
    let shape: Vec<i64> = info.shape.iter().map(|&size| size as i64).collect();
    let tensor = read_tensor(checkpoint, stored, &shape, info.dtype)?;
    finite(checkpoint, stored, stored, &tensor).map_err(|problem| ModelError::Tensors {
        file: checkpoint.origin().to_owned(),
        problems: vec![problem],
    })?;
    Ok(Some(tensor))
}

/// Size of the first dimension of a tensor, if the checkpoint has it.
pub(crate) fn rows_of(checkpoint: &Checkpoint, name: &str) -> Option<i64> {
    checkpoint.tensors().get(name)?.shape.first().and_then(|&rows| i64::try_from(rows).ok())
}

/// A tensor of a checkpoint, with the name it has there, for the model's name `name`.
///
/// Old BERTs call the weight and bias of a LayerNorm gamma and beta, and the tensor names of a
/// separately saved trunk lack the first part.
pub(crate) fn stored<'c>(
    checkpoint: &'c Checkpoint,
    name: &str,
) -> Option<(&'c str, &'c TensorInfo)> {
    let tensors = checkpoint.tensors();
    let find = |name: &str| {
        let old = || match name.rsplit_once("LayerNorm.")? {
            (place, "weight") => Some(format!("{place}LayerNorm.gamma")),
            (place, "bias") => Some(format!("{place}LayerNorm.beta")),
            _ => None,
        };
        let found = tensors.get_key_value(name).or_else(|| tensors.get_key_value(&old()?));
        found.map(|(stored, info)| (stored.as_str(), info))
    };
    find(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        let beginning = format!("{first}.");
        let mut from = tensors.range(beginning.clone()..);
        let has_first = from.next().is_some_and(|(name, _)| name.starts_with(&beginning));
        find(rest).filter(|_| !has_first)
    })
}

/// The dtype of the first 16-bit tensor of a quantized checkpoint: that of its norms. f32 without one.
pub(super) fn usual_kind(checkpoint: &Checkpoint) -> Kind {
    let kinds = checkpoint.tensors().values().filter_map(|info| kind_of(info.dtype));
    let mut narrow = kinds.filter(|kind| matches!(kind, Kind::Half | Kind::BFloat16));
    narrow.next().unwrap_or(Kind::Float)
}

/// `true` if two tensors of a checkpoint are equal, or the first does not exist.
pub(super) fn same_bytes(checkpoint: &Checkpoint, alias: &str, name: &str) -> bool {
    let pair = (stored(checkpoint, alias), stored(checkpoint, name));
    let (Some((alias, one)), Some((name, other))) = pair else { return true };
    if one.shape != other.shape || one.dtype != other.dtype {
        return false;
    }
    let read = |name| {
        let mut bytes = vec![0; usize::try_from(one.bytes).ok()?];
        checkpoint.read_into(name, &mut bytes).ok()?;
        Some(bytes)
    };
    // A read error is reported when the tensor itself is read.
    read(alias) == read(name)
}

/// The header of a tensor with an expected shape, and its name in the checkpoint.
pub(super) fn checked<'c>(
    checkpoint: &'c Checkpoint,
    name: &str,
    shape: &[i64],
) -> Result<(&'c str, &'c TensorInfo), TensorProblem> {
    let Some((stored, info)) = stored(checkpoint, name) else {
        return Err(TensorProblem::Missing { name: name.to_owned(), shape: shape.to_vec() });
    };
    if !same_shape(&info.shape, shape) {
        return Err(TensorProblem::Shape {
            name: name.to_owned(),
            expected: shape.to_vec(),
            found: info.shape.clone(),
        });
    }
    Ok((stored, info))
}

/// Reads one tensor of a checkpoint into new memory, with the checkpoint's dtype.
fn read_tensor(
    checkpoint: &Checkpoint,
    name: &str,
    shape: &[i64],
    dtype: Dtype,
) -> Result<Tensor, ModelError> {
    filled(checkpoint, name, shape, dtype, |bytes| checkpoint.read_into(name, bytes))
}

/// New memory of this shape, with the checkpoint's dtype, which `read` fills.
pub(super) fn filled(
    checkpoint: &Checkpoint,
    name: &str,
    shape: &[i64],
    dtype: Dtype,
    read: impl FnOnce(&mut [u8]) -> Result<(), CheckpointError>,
) -> Result<Tensor, ModelError> {
    let kind = kind_of(dtype).ok_or_else(|| ModelError::Dtype {
        file: checkpoint.origin().to_owned(),
        tensor: name.to_owned(),
        dtype: dtype.to_string(),
    })?;
    let mut tensor = Tensor::f_empty(shape, (kind, Device::Cpu))
        .map_err(|source| ModelError::Torch(source.into()))?;
    rlaif_torch::with_bytes_mut(&mut tensor, read)??;
    Ok(tensor)
}

fn same_shape(found: &[usize], expected: &[i64]) -> bool {
    found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(&found, &expected)| i64::try_from(found) == Ok(expected))
}
