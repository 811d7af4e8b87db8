//! The values of a pickle.
//!
//! Values live in one arena and refer to each other by index, so a deeply nested pickle needs no
//! recursion, neither to read nor to drop.

use std::collections::HashMap;
use std::path::Path;

use super::globals::{Elements, Global};
use crate::CheckpointError;

/// Any value; containers by their index in the [`Heap`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// Floats, bytes and integers beyond 64 bits, which do not occur in descriptions of tensors.
    Opaque(&'static str),
    Text(u32),
    Tuple(u32),
    List(u32),
    Dict(u32),
    Storage(u32),
    Tensor(u32),
    Global(Global),
}

impl Value {
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Opaque(what) => what,
            Self::Text(_) => "a string",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dict",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::Global(_) => "a global",
        }
    }
}

/// A storage that tensors view.
#[derive(Debug, Clone, Copy)]
pub(super) struct StorageRef {
    pub(super) elements: Elements,
    pub(super) key: u32,
    pub(super) numel: u64,
}

/// A tensor as the pickle describes it; counts are in elements.
#[derive(Debug)]
pub(super) struct PickledTensor {
    pub(super) elements: Elements,
    pub(super) storage_elements: Elements,
    /// Number of elements in the storage; number of bytes if it is untyped.
    pub(super) storage_numel: u64,
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    pub(super) stride: Vec<u64>,
    pub(super) storage_key: u32,
}

#[derive(Debug, Default)]
pub(super) struct Heap {
    pub(super) texts: Vec<String>,
    pub(super) tuples: Vec<Vec<Value>>,
    pub(super) lists: Vec<Vec<Value>>,
    pub(super) dicts: Vec<Vec<(Value, Value)>>,
    pub(super) storages: Vec<StorageRef>,
    pub(super) tensors: Vec<PickledTensor>,
}

/// A whole pickle.
#[derive(Debug)]
pub(super) struct Unpickled {
    pub(super) heap: Heap,
    pub(super) root: Value,
}

impl Unpickled {
    /// The entries of a state dict: name, tensor and the key of its storage.
    pub(super) fn state_dict(
        &self,
        file: &Path,
    ) -> Result<Vec<(&str, &PickledTensor, &str)>, CheckpointError> {
        let refuse = |entry: String, value: Value| CheckpointError::NotAStateDict {
            file: file.to_owned(),
            entry,
            found: value.describe(),
        };
        let Value::Dict(dict) = self.root else {
            return Err(refuse("the whole".to_owned(), self.root));
        };
        let heap = &self.heap;
        // As in Python, the later of two equal keys counts.
        let mut by_name = HashMap::new();
        for &(key, value) in &heap.dicts[dict as usize] {
            let Value::Text(name) = key else {
                return Err(refuse("a key".to_owned(), key));
            };
            let name = heap.texts[name as usize].as_str();
            let Value::Tensor(tensor) = value else {
                return Err(refuse(format!("`{name}`"), value));
            };
            by_name.insert(name, &heap.tensors[tensor as usize]);
        }
        Ok(by_name
            .into_iter()
            .map(|(name, tensor)| (name, tensor, heap.texts[tensor.storage_key as usize].as_str()))
            .collect())
    }

    /// The value, if it is an integer.
    pub(super) fn integer(&self) -> Option<i64> {
        match self.root {
            Value::Int(value) => Some(value),
            _ => None,
        }
    }

    /// The strings, if it is a list of strings only.
    pub(super) fn strings(&self) -> Option<Vec<&str>> {
        let Value::List(list) = self.root else { return None };
        let text = |value: &Value| match value {
            Value::Text(text) => Some(self.heap.texts[*text as usize].as_str()),
            _ => None,
        };
        self.heap.lists[list as usize].iter().map(text).collect()
    }

    /// The boolean at a key, if it is a dict with that key.
    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        let Value::Dict(dict) = self.root else { return None };
        self.heap.dicts[dict as usize].iter().rev().find_map(|(k, v)| match (k, v) {
            (Value::Text(text), Value::Bool(b)) if self.heap.texts[*text as usize] == key => {
                Some(*b)
            }
            _ => None,
        })
    }
}
