//! GGUF files.

use std::io::Write;
use std::path::Path;

use super::aside::{write_error, write_file};
use crate::CheckpointError;
use crate::read::{GgufType, GgufValue};

const VERSION: u32 = 3;
/// Tensors begin at multiples of this, the default of the format.
const ALIGNMENT: usize = 32;
/// The numbers of the types u32 and i32.
const UNSIGNED: u32 = 4;
const SIGNED: u32 = 5;

/// A tensor to write to a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufSpec {
    /// The name in the file.
    pub name: String,
    /// Dimensions, outermost first. The last one is a multiple of the numbers in a block of `kind`.
    pub shape: Vec<usize>,
    /// The element type.
    pub kind: GgufType,
}

/// Writes a GGUF file, aside and renamed; `numbers` returns those of one tensor at a time.
///
/// Integers of the metadata are written as u32, those in lists as i32, other numbers as f32.
///
/// # Errors
/// [`CheckpointError::Gguf`] for integers beyond u32, lists of several types, element types that cannot be
/// written, and rows that do not consist of whole blocks; [`CheckpointError::Write`]. Nothing is left behind.
///
/// ```
/// use rlaif_checkpoint::{Gguf, GgufSpec, GgufType, GgufValue, write_gguf};
///
/// let metadata = [("general.architecture".to_owned(), GgufValue::Text("llama".to_owned()))];
/// let tensors = [GgufSpec { name: "norm.weight".to_owned(), shape: vec![2], kind: GgufType::F32 }];
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("model.gguf");
/// write_gguf(&path, &metadata, &tensors, |_| Ok(vec![1., 2.]))?;
/// assert_eq!(Gguf::open(&path)?.read("norm.weight")?, [1., 2.]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_gguf(
    path: &Path,
    metadata: &[(String, GgufValue)],
    tensors: &[GgufSpec],
    mut numbers: impl FnMut(&str) -> Result<Vec<f32>, CheckpointError>,
) -> Result<(), CheckpointError> {
    let refuse = |place: String, expected: &str, found: String| CheckpointError::Gguf {
        file: path.to_owned(),
        place,
        expected: expected.to_owned(),
        found,
    };
    let mut header = Vec::new();
    header.extend(b"GGUF");
    header.extend(VERSION.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        push_text(&mut header, key);
        push_value(&mut header, value).map_err(|(expected, found)| {
            refuse(format!("the value of `{key}`"), expected, found)
        })?;
    }
    let mut begin = 0u64;
    for spec in tensors {
        let (block, size) = spec.kind.block();
        let columns = spec.shape.last().copied().unwrap_or(1);
        if !columns.is_multiple_of(block) {
            let expected = "rows of whole blocks";
            let found = format!("{columns} numbers in blocks of {block}");
            return Err(refuse(format!("tensor `{}`", spec.name), expected, found));
        }
        push_text(&mut header, &spec.name);
        header.extend((spec.shape.len() as u32).to_le_bytes());
        for size in spec.shape.iter().rev() {
            header.extend((*size as u64).to_le_bytes());
        }
        header.extend(spec.kind.number().to_le_bytes());
        header.extend(begin.to_le_bytes());
        let bytes = spec.shape.iter().product::<usize>() / block * size;
        begin += bytes.next_multiple_of(ALIGNMENT) as u64;
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    write_file(path, |out| {
        out.write_all(&header).map_err(write_error(path))?;
        for spec in tensors {
            let numbers = numbers(&spec.name)?;
            let wanted: usize = spec.shape.iter().product();
            let place = || format!("tensor `{}`", spec.name);
            if numbers.len() != wanted {
                return Err(refuse(
                    place(),
                    &format!("{wanted} numbers"),
                    numbers.len().to_string(),
                ));
            }
            let mut bytes = spec.kind.quantize(&numbers).ok_or_else(|| {
                refuse(
                    place(),
                    "the element type F32, F16, BF16 or Q8_0",
                    spec.kind.name().to_owned(),
                )
            })?;
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
            out.write_all(&bytes).map_err(write_error(path))?;
        }
        Ok(())
    })
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The number of a value's type.
fn type_of(value: &GgufValue) -> u32 {
    match value {
        GgufValue::Integer(_) => UNSIGNED,
        GgufValue::Number(_) => 6,
        GgufValue::Bool(_) => 7,
        GgufValue::Text(_) => 8,
        GgufValue::List(_) => 9,
    }
}

fn push_value(out: &mut Vec<u8>, value: &GgufValue) -> Result<(), (&'static str, String)> {
    out.extend(type_of(value).to_le_bytes());
    push_content(out, value)
}

fn push_content(out: &mut Vec<u8>, value: &GgufValue) -> Result<(), (&'static str, String)> {
    match value {
        GgufValue::Integer(value) => {
            let value =
                u32::try_from(*value).map_err(|_| ("an integer of 32 bits", value.to_string()))?;
            out.extend(value.to_le_bytes());
        }
        GgufValue::Number(value) => out.extend((*value as f32).to_le_bytes()),
        GgufValue::Bool(value) => out.push(u8::from(*value)),
        GgufValue::Text(text) => push_text(out, text),
        GgufValue::List(values) => {
            let kind = values.first().map_or(SIGNED, type_of);
            if let Some(other) = values.iter().find(|value| type_of(value) != kind) {
                return Err(("a list of one type", format!("{other:?} beside {:?}", values[0])));
            }
            // llama.cpp reads lists of integers with a sign only; the bytes are the same.
            let kind = if kind == UNSIGNED { SIGNED } else { kind };
            out.extend(kind.to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            for value in values {
                push_content(out, value)?;
            }
        }
    }
    Ok(())
}
