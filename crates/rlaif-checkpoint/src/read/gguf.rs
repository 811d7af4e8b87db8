//! GGUF, llama.cpp's format of models in one file: metadata, names of tensors, and their blocks.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3.

mod blocks;

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

pub use blocks::GgufType;

use super::positioned::Shard;
use crate::CheckpointError;

const MAGIC: &[u8; 4] = b"GGUF";
/// More than any file has; a larger number is that of a damaged one.
const MOST_ENTRIES: u64 = 1 << 24;
const MOST_DIMENSIONS: u32 = 4;
/// Alignment of the tensors, unless the metadata has another.
const ALIGNMENT: u64 = 32;

/// A value of GGUF's metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// An integer of any width.
    Integer(i128),
    /// f32 or f64.
    Number(f64),
    /// true or false.
    Bool(bool),
    /// A text; bytes that are not UTF-8 are replaced.
    Text(String),
    /// Values of one type.
    List(Vec<Self>),
}

impl GgufValue {
    /// The value as an integer of at least 0.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Integer(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The value as a number.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Integer(value) => Some(*value as f64),
            Self::Number(value) => Some(*value),
            _ => None,
        }
    }

    /// The value as a text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a list.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(values) => Some(values),
            _ => None,
        }
    }
}

/// A tensor of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The element type.
    pub kind: GgufType,
    /// First byte in the file.
    begin: u64,
    /// Number of bytes.
    bytes: u64,
}

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    shard: Shard,
    metadata: BTreeMap<String, GgufValue>,
    tensors: BTreeMap<String, GgufTensor>,
}

impl Gguf {
    /// Reads metadata and names of a file, and checks them against its length.
    ///
    /// # Errors
    /// [`CheckpointError::Read`]; [`CheckpointError::Gguf`] names what is damaged or not supported, such as
    /// an element type; [`CheckpointError::FileLength`] for a file that ends before its last tensor.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let shard = Shard::open(path)?;
        let section = BufReader::new(shard.section(0, shard.len()));
        let mut reader = Reader { inner: section, file: path, read: 0, length: shard.len() };
        let magic = reader.bytes::<4>("the magic number")?;
        if &magic != MAGIC {
            return Err(reader.refuse("the magic number", "GGUF", format!("{magic:02x?}")));
        }
        let version = reader.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(reader.refuse("the version", "2 or 3", version.to_string()));
        }
        let tensor_count = reader.count("the number of tensors")?;
        let value_count = reader.count("the number of values")?;
        let mut metadata = BTreeMap::new();
        for _ in 0..value_count {
            let key = reader.text("a key")?;
            let kind = reader.u32(&key)?;
            let value = reader.value(&key, kind, 0)?;
            metadata.insert(key, value);
        }
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            infos.push(reader.tensor()?);
        }
        let alignment =
            metadata.get("general.alignment").map_or(Some(ALIGNMENT), GgufValue::as_u64);
        let Some(alignment) = alignment.filter(|alignment| *alignment > 0) else {
            let found = format!("{:?}", metadata["general.alignment"]);
            return Err(reader.refuse("`general.alignment`", "an integer above 0", found));
        };
        let start = reader.read.div_ceil(alignment) * alignment;
        let mut tensors = BTreeMap::new();
        for (name, mut tensor) in infos {
            tensor.begin = start.saturating_add(tensor.begin);
            let end = tensor.begin.saturating_add(tensor.bytes);
            if end > shard.len() {
                let (file, found) = (path.to_owned(), shard.len());
                return Err(CheckpointError::FileLength { file, expected: end, found });
            }
            tensors.insert(name, tensor);
        }
        Ok(Self { shard, metadata, tensors })
    }

    /// The metadata.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        &self.metadata
    }

    /// The tensors, by name.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, GgufTensor> {
        &self.tensors
    }

    /// The numbers of a tensor, dequantized.
    ///
    /// # Errors
    /// [`CheckpointError::UnknownTensor`], [`CheckpointError::Read`].
    pub fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(CheckpointError::UnknownTensor {
                origin: self.shard.path().to_owned(),
                tensor: name.to_owned(),
            });
        };
        let mut bytes = vec![0; usize::try_from(tensor.bytes).unwrap_or(usize::MAX)];
        self.shard.read_at(&mut bytes, tensor.begin)?;
        let mut out = vec![0.; tensor.shape.iter().product()];
        tensor.kind.dequantize(&bytes, &mut out);
        Ok(out)
    }
}

struct Reader<'a, R> {
    inner: R,
    file: &'a Path,
    read: u64,
    length: u64,
}

impl<R: Read> Reader<'_, R> {
    fn refuse(&self, place: &str, expected: &str, found: String) -> CheckpointError {
        CheckpointError::Gguf {
            file: PathBuf::from(self.file),
            place: place.to_owned(),
            expected: expected.to_owned(),
            found,
        }
    }

    fn fill(&mut self, buffer: &mut [u8], place: &str) -> Result<(), CheckpointError> {
        self.read += buffer.len() as u64;
        if self.read > self.length {
            return Err(self.refuse(place, "more bytes", "the end of the file".to_owned()));
        }
        let file = self.file;
        let read = |source| CheckpointError::Read { path: file.to_owned(), source };
        self.inner.read_exact(buffer).map_err(read)
    }

    fn bytes<const N: usize>(&mut self, place: &str) -> Result<[u8; N], CheckpointError> {
        let mut buffer = [0; N];
        self.fill(&mut buffer, place)?;
        Ok(buffer)
    }

    fn u32(&mut self, place: &str) -> Result<u32, CheckpointError> {
        Ok(u32::from_le_bytes(self.bytes(place)?))
    }

    fn u64(&mut self, place: &str) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.bytes(place)?))
    }

    fn count(&mut self, place: &str) -> Result<u64, CheckpointError> {
        let count = self.u64(place)?;
        // Each entry has at least a byte.
        if count > MOST_ENTRIES.min(self.length) {
            let expected = format!("at most {}", MOST_ENTRIES.min(self.length));
            return Err(self.refuse(place, &expected, count.to_string()));
        }
        Ok(count)
    }

    fn text(&mut self, place: &str) -> Result<String, CheckpointError> {
        let length = self.u64(place)?;
        let left = self.length.saturating_sub(self.read);
        if length > left {
            return Err(self.refuse(place, &format!("at most {left} bytes"), length.to_string()));
        }
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
        self.fill(&mut buffer, place)?;
        Ok(String::from_utf8_lossy(&buffer).into_owned())
    }

    fn value(&mut self, key: &str, kind: u32, depth: u32) -> Result<GgufValue, CheckpointError> {
        let integer = |value: i128| GgufValue::Integer(value);
        Ok(match kind {
            0 => integer(u8::from_le_bytes(self.bytes(key)?).into()),
            1 => integer(i8::from_le_bytes(self.bytes(key)?).into()),
            2 => integer(u16::from_le_bytes(self.bytes(key)?).into()),
            3 => integer(i16::from_le_bytes(self.bytes(key)?).into()),
            4 => integer(u32::from_le_bytes(self.bytes(key)?).into()),
            5 => integer(i32::from_le_bytes(self.bytes(key)?).into()),
            6 => GgufValue::Number(f32::from_le_bytes(self.bytes(key)?).into()),
            7 => GgufValue::Bool(self.bytes::<1>(key)? != [0]),
            8 => GgufValue::Text(self.text(key)?),
            9 if depth < 4 => {
                let kind = self.u32(key)?;
                let count = self.count(key)?;
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(key, kind, depth + 1)?);
                }
                GgufValue::List(values)
            }
            10 => integer(u64::from_le_bytes(self.bytes(key)?).into()),
            11 => integer(i64::from_le_bytes(self.bytes(key)?).into()),
            12 => GgufValue::Number(f64::from_le_bytes(self.bytes(key)?)),
            other => {
                let found = format!("type {other}");
                return Err(self.refuse(
                    &format!("`{key}`"),
                    "a type of value from 0 to 12",
                    found,
                ));
            }
        })
    }

    /// Name and tensor, whose `begin` is relative to the first tensor's.
    fn tensor(&mut self) -> Result<(String, GgufTensor), CheckpointError> {
        let name = self.text("the name of a tensor")?;
        let place = format!("tensor `{name}`");
        let dimensions = self.u32(&place)?;
        if dimensions > MOST_DIMENSIONS {
            let expected = format!("at most {MOST_DIMENSIONS} dimensions");
            return Err(self.refuse(&place, &expected, dimensions.to_string()));
        }
        let mut sizes = Vec::new();
        for _ in 0..dimensions {
            sizes.push(self.u64(&place)?);
        }
        let number = self.u32(&place)?;
        let begin = self.u64(&place)?;
        let kind = GgufType::of(number).map_err(|found| {
            let read = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K";
            self.refuse(&place, read, found)
        })?;
        let (numbers, size) = kind.block();
        let columns = sizes.first().copied().unwrap_or(1);
        let all = sizes.iter().try_fold(1u64, |all, size| all.checked_mul(*size));
        let bytes = all.and_then(|all| (all / numbers as u64).checked_mul(size as u64));
        let (true, Some(bytes)) = (columns % numbers as u64 == 0, bytes) else {
            let expected = format!("rows of a multiple of {numbers} numbers");
            return Err(self.refuse(&place, &expected, format!("{sizes:?}")));
        };
        let shape = sizes.iter().rev().map(|&size| usize::try_from(size).unwrap_or(usize::MAX));
        Ok((name, GgufTensor { shape: shape.collect(), kind, begin, bytes }))
    }
}
