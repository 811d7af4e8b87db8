//! Dtypes of weights: those of files, of tensors, and their names.

use rlaif_checkpoint::Dtype;
use tch::Kind;

/// Dtypes that weights can have.
pub(super) fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::I8 | Dtype::U8 | Dtype::Bool => return None,
    })
}

/// The dtype in a file of a tensor that weights can have.
pub(crate) fn dtype_of(kind: Kind) -> Option<Dtype> {
    [Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::F64]
        .into_iter()
        .find(|dtype| kind_of(*dtype) == Some(kind))
}

/// The name of a weight's dtype; `None` for dtypes that only buffers have.
pub(crate) fn dtype_name(dtype: Dtype) -> Option<&'static str> {
    kind_of(dtype).map(kind_name)
}

/// The name of a dtype in configuration files and on the command line.
pub(crate) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "f32",
        Kind::BFloat16 => "bf16",
        Kind::Half => "f16",
        Kind::Double => "f64",
        _ => "not a floating-point kind",
    }
}
