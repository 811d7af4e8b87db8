//! config.json, kept as it was read so that saving loses nothing.

use std::path::{Path, PathBuf};

use rlaif_lm::LmSpec;
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

/// The largest size of a dimension: a product of two of them is far from overflow.
const LARGEST: i64 = i64::MAX >> 32;
/// The most layers of a stack. Each is looked for in the checkpoint, and reported if it is missing.
const MOST_LAYERS: usize = 10_000;

/// Checks sizes, which are at least 1.
pub(crate) fn check_sizes(
    sizes: impl IntoIterator<Item = (&'static str, i64)>,
) -> Result<(), ModelError> {
    match sizes.into_iter().find(|(_, size)| !(1..=LARGEST).contains(size)) {
        None => Ok(()),
        Some((field, size)) => Err(ModelError::BadField {
            field,
            found: size.to_string(),
            expected: if size < 1 { "at least 1".to_owned() } else { format!("at most {LARGEST}") },
        }),
    }
}

/// Checks a number of layers.
pub(crate) fn check_layers(field: &'static str, layers: usize) -> Result<(), ModelError> {
    if layers > MOST_LAYERS {
        return Err(ModelError::BadField {
            field,
            found: layers.to_string(),
            expected: format!("at most {MOST_LAYERS}"),
        });
    }
    Ok(())
}

/// Checks that the ids which the model itself puts into a batch have an embedding.
pub(crate) fn check_ids(spec: &LmSpec) -> Result<(), ModelError> {
    let ids =
        [("pad_token_id", Some(spec.pad_id)), ("decoder_start_token_id", spec.decoder_start_id)];
    match ids.into_iter().find(|(_, id)| id.is_some_and(|id| i64::from(id) >= spec.vocab_size)) {
        Some((field, Some(id))) => Err(ModelError::BadField {
            field,
            found: id.to_string(),
            expected: format!("an id below vocab_size, which is {}", spec.vocab_size),
        }),
        _ => Ok(()),
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
