//! The imports that a pickle of tensors may contain; all others are refused.

use crate::Dtype;

/// The element type of a storage or of a rebuilt tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elements {
    Of(Dtype),
    /// Raw bytes; the tensor states their type.
    Untyped,
    /// A PyTorch type that is not supported.
    Unsupported(&'static str),
}

/// An import that a pickle may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    /// `(storage, offset, size, stride)`
    RebuildTensor,
    /// `(storage, offset, size, stride, requires_grad, hooks[, metadata])`
    RebuildTensorV2,
    /// `(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])`
    RebuildTensorV3,
    /// `(tensor, requires_grad, hooks)`
    RebuildParameter,
    Storage(Elements),
    Dtype(Elements),
}

const STORAGES: [(&str, Elements); 17] = [
    ("DoubleStorage", Elements::Of(Dtype::F64)),
    ("FloatStorage", Elements::Of(Dtype::F32)),
    ("HalfStorage", Elements::Of(Dtype::F16)),
    ("BFloat16Storage", Elements::Of(Dtype::BF16)),
    ("LongStorage", Elements::Of(Dtype::I64)),
    ("IntStorage", Elements::Of(Dtype::I32)),
    ("ShortStorage", Elements::Of(Dtype::I16)),
    ("CharStorage", Elements::Of(Dtype::I8)),
    ("ByteStorage", Elements::Of(Dtype::U8)),
    ("BoolStorage", Elements::Of(Dtype::Bool)),
    ("ComplexDoubleStorage", Elements::Unsupported("complex128")),
    ("ComplexFloatStorage", Elements::Unsupported("complex64")),
    ("QUInt8Storage", Elements::Unsupported("quint8")),
    ("QInt8Storage", Elements::Unsupported("qint8")),
    ("QInt32Storage", Elements::Unsupported("qint32")),
    ("QUInt4x2Storage", Elements::Unsupported("quint4x2")),
    ("QUInt2x4Storage", Elements::Unsupported("quint2x4")),
];

const DTYPES: [(&str, Elements); 23] = [
    ("float64", Elements::Of(Dtype::F64)),
    ("float32", Elements::Of(Dtype::F32)),
    ("float16", Elements::Of(Dtype::F16)),
    ("bfloat16", Elements::Of(Dtype::BF16)),
    ("int64", Elements::Of(Dtype::I64)),
    ("int32", Elements::Of(Dtype::I32)),
    ("int16", Elements::Of(Dtype::I16)),
    ("int8", Elements::Of(Dtype::I8)),
    ("uint8", Elements::Of(Dtype::U8)),
    ("bool", Elements::Of(Dtype::Bool)),
    ("complex32", Elements::Unsupported("complex32")),
    ("complex64", Elements::Unsupported("complex64")),
    ("complex128", Elements::Unsupported("complex128")),
    ("float8_e4m3fn", Elements::Unsupported("float8_e4m3fn")),
    ("float8_e4m3fnuz", Elements::Unsupported("float8_e4m3fnuz")),
    ("float8_e5m2", Elements::Unsupported("float8_e5m2")),
    ("float8_e5m2fnuz", Elements::Unsupported("float8_e5m2fnuz")),
    ("float8_e8m0fnu", Elements::Unsupported("float8_e8m0fnu")),
    ("float4_e2m1fn_x2", Elements::Unsupported("float4_e2m1fn_x2")),
    ("uint16", Elements::Unsupported("uint16")),
    ("uint32", Elements::Unsupported("uint32")),
    ("uint64", Elements::Unsupported("uint64")),
    ("bits8", Elements::Unsupported("bits8")),
];

impl Global {
    /// The global with this name, if it is allowed.
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        let named = |table: &[(&str, Elements)]| {
            table.iter().find(|(known, _)| *known == name).map(|&(_, elements)| elements)
        };
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensorV2),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::RebuildTensorV3),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch.storage", "UntypedStorage") => Some(Self::Storage(Elements::Untyped)),
            ("torch", _) => {
                named(&STORAGES).map(Self::Storage).or_else(|| named(&DTYPES).map(Self::Dtype))
            }
            _ => None,
        }
    }
}
