//! Element types of stored tensors.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The element type of a stored tensor.
///
/// Covers only the types that a model's weights or buffers are stored in. Other types (8-bit
/// floats, complex or quantized numbers) are refused by name when the file is opened.
///
/// ```
/// use rlaif_checkpoint::Dtype;
///
/// assert_eq!(Dtype::BF16.size(), 2);
/// assert_eq!(Dtype::BF16.to_string(), "BF16");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Dtype {
    /// IEEE 754, 64 bits.
    F64,
    /// IEEE 754, 32 bits.
    F32,
    /// IEEE 754, 16 bits.
    F16,
    /// bfloat16: the upper half of an [`F32`](Self::F32).
    BF16,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 8 bits.
    U8,
    /// One byte, 0 or 1.
    #[serde(rename = "BOOL")]
    Bool,
}

impl Dtype {
    const ALL: [Self; 10] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U8,
        Self::Bool,
    ];

    /// Bytes per element.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The type's name in a safetensors header, such as `F32`; [`Display`](fmt::Display) prints it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Bytes of a tensor of this type and shape, or `None` beyond 2^64.
    pub(crate) fn bytes_of(self, shape: &[usize]) -> Option<u64> {
        shape.iter().try_fold(self.size() as u64, |bytes, &dim| bytes.checked_mul(dim as u64))
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
