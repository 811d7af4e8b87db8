//! Typed access to a GGUF file's metadata.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rlaif_checkpoint::{CheckpointError, Gguf, GgufTensor, GgufValue};

use crate::error::ModelError;

/// The tensor with the factors of rotary frequencies.
pub(super) const FACTORS: &str = "rope_freqs.weight";

/// A file with a setting that is not supported.
pub(super) fn refused(
    file: &Path,
    field: impl Into<String>,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> ModelError {
    ModelError::Gguf {
        file: PathBuf::from(file),
        field: field.into(),
        expected: expected.into(),
        found: found.into(),
    }
}

/// The contents of a file that describe the model, and its name for errors.
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) metadata: &'a BTreeMap<String, GgufValue>,
    /// Shapes of the tensors, outermost dimension first.
    pub(super) shapes: BTreeMap<String, Vec<usize>>,
    /// The factors of rotary frequencies.
    pub(super) factors: Option<Vec<f32>>,
}

impl<'a> Source<'a> {
    /// # Errors
    /// [`CheckpointError::Read`].
    pub(super) fn open(file: &'a Path, gguf: &'a Gguf) -> Result<Self, CheckpointError> {
        let tensors = gguf.tensors();
        let shape = |(name, tensor): (&String, &GgufTensor)| (name.clone(), tensor.shape.clone());
        let factors = tensors.get(FACTORS).map(|_| gguf.read(FACTORS)).transpose()?;
        let shapes = tensors.iter().map(shape).collect();
        Ok(Self { file, metadata: gguf.metadata(), shapes, factors })
    }

    pub(super) fn refuse(
        &self,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> ModelError {
        refused(self.file, field, expected, found)
    }

    pub(super) fn value(&self, key: &str) -> Option<&'a GgufValue> {
        self.metadata.get(key)
    }

    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.value(key)?.as_str()
    }

    pub(super) fn needed<T>(
        &self,
        key: &str,
        value: Option<T>,
        expected: &str,
    ) -> Result<T, ModelError> {
        value.ok_or_else(|| {
            let found = self.value(key).map_or("missing".to_owned(), |value| format!("{value:?}"));
            self.refuse(format!("`{key}`"), expected, found)
        })
    }

    pub(super) fn integer(&self, key: &str) -> Result<u64, ModelError> {
        self.needed(key, self.value(key).and_then(GgufValue::as_u64), "an integer of at least 0")
    }

    pub(super) fn number(&self, key: &str) -> Result<f64, ModelError> {
        self.needed(key, self.value(key).and_then(GgufValue::as_f64), "a number")
    }

    pub(super) fn list(&self, key: &str) -> Result<&'a [GgufValue], ModelError> {
        let found = self.value(key);
        found.and_then(GgufValue::as_list).ok_or_else(|| {
            let found = if found.is_some() { "another type" } else { "missing" };
            self.refuse(format!("`{key}`"), "a list", found)
        })
    }
}
