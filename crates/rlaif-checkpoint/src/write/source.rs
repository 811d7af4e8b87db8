//! Sources of the bytes of tensors to write.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::{Checkpoint, Dtype};

/// A tensor to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The key in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

/// Tensors that provide their bytes one after the other, so that none is in memory twice.
///
/// A model on a device implements it by copying one tensor at a time.
pub trait TensorSource {
    /// The tensors to write, in the order in which they fill shards.
    fn tensors(&self) -> Vec<TensorSpec>;

    /// Writes one tensor, little endian and contiguous, in one piece or in several.
    ///
    /// # Errors
    ///
    /// The error that `out` returned, or the source's own error (as with `io::Error::other`); the
    /// caller tells them apart.
    fn write(&self, tensor: &str, out: &mut dyn Write) -> io::Result<()>;
}

/// A small tensor in memory, such as a value head's.
///
/// ```
/// use std::collections::BTreeMap;
/// use rlaif_checkpoint::{Checkpoint, Dtype, TensorBytes, write_safetensors};
///
/// let bias = TensorBytes { dtype: Dtype::F32, shape: vec![1], bytes: vec![0; 4] };
/// let head = BTreeMap::from([("bias".to_owned(), bias)]);
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("value_head.safetensors");
/// write_safetensors(&path, &head, &BTreeMap::new())?;
/// assert_eq!(Checkpoint::open_file(&path)?.tensors()["bias"].shape, [1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorBytes {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Little endian, contiguous.
    pub bytes: Vec<u8>,
}

fn unknown(tensor: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no tensor `{tensor}`"))
}

impl TensorSource for BTreeMap<String, TensorBytes> {
    fn tensors(&self) -> Vec<TensorSpec> {
        let spec = |(name, tensor): (&String, &TensorBytes)| TensorSpec {
            name: name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
        };
        self.iter().map(spec).collect()
    }

    fn write(&self, tensor: &str, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.get(tensor).ok_or_else(|| unknown(tensor))?.bytes)
    }
}

/// An opened checkpoint can be written again: a pickled checkpoint becomes safetensors, and views
/// become contiguous. One tensor is in memory at a time.
impl TensorSource for Checkpoint {
    fn tensors(&self) -> Vec<TensorSpec> {
        let tensors = Checkpoint::tensors(self).iter();
        let spec = |(name, info): (&String, &crate::TensorInfo)| TensorSpec {
            name: name.clone(),
            dtype: info.dtype,
            shape: info.shape.clone(),
        };
        tensors.map(spec).collect()
    }

    fn write(&self, tensor: &str, out: &mut dyn Write) -> io::Result<()> {
        let info = Checkpoint::tensors(self).get(tensor).ok_or_else(|| unknown(tensor))?;
        let mut bytes = vec![0; info.bytes as usize];
        self.read_into(tensor, &mut bytes).map_err(io::Error::other)?;
        out.write_all(&bytes)
    }
}
