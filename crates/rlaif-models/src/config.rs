//! config.json, kept as it was read so that saving loses nothing.

use std::path::{Path, PathBuf};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::error::ModelError;

/// A model folder's config.json: every key, known here or not.
#[derive(Debug, Clone)]
pub struct Config {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Config {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if there is none or it is not a JSON object.
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("config.json");
        let fields = rlaif_checkpoint::read_json(&path)?;
        Ok(Self { path, fields })
    }

    /// A configuration made in memory.
    ///
    /// ```
    /// let config = rlaif_models::Config::from_value(serde_json::json!({ "model_type": "t5" }));
    /// assert_eq!(config.text("model_type"), Some("t5"));
    /// ```
    ///
    /// # Panics
    /// If `value` is not an object.
    pub fn from_value(value: Value) -> Self {
        let Value::Object(fields) = value else { panic!("a configuration is a JSON object") };
        Self { path: PathBuf::from("config.json"), fields }
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every field.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// A field that is a string.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field).and_then(Value::as_str)
    }

    /// Sets a field.
    pub fn set(&mut self, field: &str, value: Value) {
        self.fields.insert(field.to_owned(), value);
    }

    /// The fields that a model reads, in its own type.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, ModelError> {
        T::deserialize(Value::Object(self.fields.clone()))
            .map_err(|source| ModelError::Config { file: self.path.clone(), source })
    }
}

/// Checks sizes, which are at least 1.
pub(crate) fn check_sizes(
    sizes: impl IntoIterator<Item = (&'static str, i64)>,
) -> Result<(), ModelError> {
    match sizes.into_iter().find(|(_, size)| *size < 1) {
        None => Ok(()),
        Some((field, size)) => Err(ModelError::BadField {
            field,
            found: size.to_string(),
            expected: "at least 1".to_owned(),
        }),
    }
}

/// A token id, or a list of them: `eos_token_id` is either.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    pub(crate) fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}
