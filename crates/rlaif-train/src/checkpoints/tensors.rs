//! Tensors to one safetensors file, and back.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

use rlaif_checkpoint::{Checkpoint, Dtype, TensorSource, TensorSpec, write_safetensors};
use tch::{Device, Kind, Tensor};

use crate::error::TrainError;

const KINDS: [(Kind, Dtype); 8] = [
    (Kind::Float, Dtype::F32),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Half, Dtype::F16),
    (Kind::Double, Dtype::F64),
    (Kind::Int64, Dtype::I64),
    (Kind::Int16, Dtype::I16),
    (Kind::Uint8, Dtype::U8),
    (Kind::Bool, Dtype::Bool),
];

pub(super) fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), TrainError> {
    for (name, tensor) in tensors {
        if dtype(tensor).is_none() {
            return Err(TrainError::BadCheckpoint {
                path: path.to_owned(),
                problem: format!("tensor `{name}` is {:?}, which cannot be saved", tensor.kind()),
            });
        }
    }
    Ok(write_safetensors(path, &List(tensors), &BTreeMap::new())?)
}

pub(super) fn read(path: &Path) -> Result<Vec<(String, Tensor)>, TrainError> {
    let file = Checkpoint::open_file(path)?;
    let mut tensors = Vec::with_capacity(file.tensors().len());
    for (name, info) in file.tensors() {
        let kind = KINDS.iter().find(|(_, dtype)| *dtype == info.dtype).map(|(kind, _)| *kind);
        let kind = kind.ok_or_else(|| TrainError::BadCheckpoint {
            path: path.to_owned(),
            problem: format!("tensor `{name}` is {}, which no checkpoint here has", info.dtype),
        })?;
        let shape: Vec<i64> =
            info.shape.iter().map(|&n| i64::try_from(n).unwrap_or(i64::MAX)).collect();
        let mut tensor = Tensor::f_empty(&shape, (kind, Device::Cpu))?;
        rlaif_torch::with_bytes_mut(&mut tensor, |bytes| file.read_into(name, bytes))??;
        tensors.push((name.clone(), tensor));
    }
    Ok(tensors)
}

fn dtype(tensor: &Tensor) -> Option<Dtype> {
    KINDS.iter().find(|(kind, _)| *kind == tensor.kind()).map(|(_, dtype)| *dtype)
}

/// Brought to the host one at a time.
struct List<'a>(&'a [(String, Tensor)]);

impl TensorSource for List<'_> {
    fn tensors(&self) -> Vec<TensorSpec> {
        let size = |n: i64| usize::try_from(n).expect("a size is not negative");
        self.0
            .iter()
            .map(|(name, tensor)| TensorSpec {
                name: name.clone(),
                dtype: dtype(tensor).expect("kinds were checked"),
                shape: tensor.size().into_iter().map(size).collect(),
            })
            .collect()
    }

    fn write(&self, name: &str, out: &mut dyn Write) -> io::Result<()> {
        let (_, tensor) = self
            .0
            .iter()
            .find(|(known, _)| known == name)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_owned()))?;
        let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
        rlaif_torch::with_bytes(&tensor, |bytes| out.write_all(bytes)).map_err(io::Error::other)?
    }
}
