//! Sizes of weights and of the keys and values of a token.

use std::path::Path;

use rlaif_checkpoint::Checkpoint;
use rlaif_torch::Quantization;
use tch::Kind;

use crate::{
    config::Config, dimensions::Dimensions, error::ModelError, family::Families, inspect::summary,
};

/// Bytes of a weight of an adapter, which is in f32 on a base of any dtype.
pub(super) const ADAPTER_WIDTH: u64 = 4;

/// The sizes of a model's layers.
pub(super) fn dimensions(families: Families, config: &Config) -> Result<Dimensions, ModelError> {
    let of_family = families.family(config)?.dimensions;
    of_family(config).map_err(|error| error.in_file(config.path()))
}

/// Keys and values of a token, in scalars.
pub(super) fn cached_per_token(shape: &Dimensions) -> u64 {
    shape.blocks as u64 * 2 * unsigned(shape.kv_heads) * unsigned(shape.head_dim)
}

/// Weights of an adapter, in scalars.
pub(super) fn adapter_weights(folder: &Path) -> Result<u64, ModelError> {
    let checkpoint = Checkpoint::open_adapter(folder)?;
    let sizes = checkpoint.tensors().values().map(|info| info.shape.iter().product::<usize>());
    Ok(sizes.sum::<usize>() as u64)
}

pub(super) fn unsigned(size: i64) -> u64 {
    u64::try_from(size).unwrap_or(0)
}

/// Weights of a folder, in scalars.
pub(super) struct Weights {
    pub(super) count: u64,
    /// Scalars in 4 or 8 bits.
    quantized: u64,
    quantized_bytes: u64,
}

impl Weights {
    /// Bytes in memory, the dense ones of this many each.
    pub(super) fn bytes(&self, width: u64) -> u64 {
        (self.count - self.quantized) * width + self.quantized_bytes
    }
}

/// The weights of a folder. For a trunk without its family's head, those in the checkpoint.
pub(super) fn parameters(
    families: Families,
    folder: &Path,
    quantization: Option<Quantization>,
) -> Result<Weights, ModelError> {
    match summary(families, folder, quantization) {
        Ok(summary) => Ok(Weights {
            count: summary.parameters as u64,
            quantized: summary.quantized as u64,
            quantized_bytes: summary.quantized_bytes,
        }),
        Err(ModelError::Tensors { .. } | ModelError::UnknownArchitecture { .. }) => {
            let checkpoint = Checkpoint::open(folder)?;
            let sizes =
                checkpoint.tensors().values().map(|info| info.shape.iter().product::<usize>());
            let count = sizes.sum::<usize>() as u64;
            Ok(Weights { count, quantized: 0, quantized_bytes: 0 })
        }
        Err(error) => Err(error),
    }
}

pub(super) fn size(kind: Kind) -> u64 {
    match kind {
        Kind::BFloat16 | Kind::Half => 2,
        _ => 4,
    }
}

pub(super) fn gib(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib < 1. { format!("{:.0} MiB", gib * 1024.) } else { format!("{gib:.1} GiB") }
}
