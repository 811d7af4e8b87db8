//! JSON files with errors that name file, field, line and column.

use std::fmt;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use rlaif_files::open_file;

use crate::CheckpointError;

/// Far above the size of the largest known tokenizer.json (tens of megabytes).
const JSON_LIMIT: u64 = 1 << 28;

/// The first bytes of the pointer that Git LFS leaves in place of a file.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Reads a JSON file into any type, such as a configuration struct or a `serde_json::Map`.
///
/// # Errors
///
/// [`CheckpointError::Read`] if the file cannot be read, [`CheckpointError::LfsPointer`],
/// [`CheckpointError::TooLarge`], and [`CheckpointError::Json`] with field, line and column.
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct Config {
///     hidden_size: usize,
/// }
///
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("config.json");
/// std::fs::write(&path, r#"{"hidden_size": 64}"#)?;
/// assert_eq!(rlaif_checkpoint::read_json::<Config>(&path)?.hidden_size, 64);
///
/// std::fs::write(&path, r#"{"hidden_size": "wide"}"#)?;
/// let error = rlaif_checkpoint::read_json::<Config>(&path).err().unwrap().to_string();
/// assert!(error.contains("field `hidden_size`") && error.contains("line 1 column 22"), "{error}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    parse_json(path, &read_json_bytes(path)?)
}

/// The bytes of a JSON file; refuses a file that is too large and a Git LFS pointer.
pub(crate) fn read_json_bytes(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let read = |source| CheckpointError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    open_file(path)
        .and_then(|file| file.take(JSON_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(read)?;
    if bytes.len() as u64 > JSON_LIMIT {
        let found = std::fs::metadata(path).map_err(read)?.len();
        return Err(CheckpointError::TooLarge {
            file: path.to_owned(),
            what: "JSON",
            limit: JSON_LIMIT,
            found,
        });
    }
    refuse_lfs_pointer(path, &bytes)?;
    Ok(bytes)
}

/// As [`read_json`], but `None` if there is no such file: `generation_config.json` is optional.
///
/// # Errors
///
/// As [`read_json`], except that a missing file is not an error.
///
/// ```
/// let path = std::path::Path::new("no/such/generation_config.json");
/// let config: Option<serde_json::Value> = rlaif_checkpoint::read_json_if_present(path)?;
/// assert!(config.is_none());
/// # Ok::<(), rlaif_checkpoint::CheckpointError>(())
/// ```
pub fn read_json_if_present<T: DeserializeOwned>(
    path: &Path,
) -> Result<Option<T>, CheckpointError> {
    match read_json(path) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Parses bytes that came from `file`.
pub(crate) fn parse_json<T: DeserializeOwned>(
    file: &Path,
    bytes: &[u8],
) -> Result<T, CheckpointError> {
    let located = |field: String, source| CheckpointError::Json {
        file: file.to_owned(),
        field: if field.is_empty() || field == "?" { ".".to_owned() } else { field },
        source,
    };
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut parser)
        .map_err(|error| located(error.path().to_string(), error.into_inner()))?;
    parser.end().map_err(|source| located(String::new(), source))?;
    Ok(value)
}

pub(crate) fn refuse_lfs_pointer(file: &Path, first_bytes: &[u8]) -> Result<(), CheckpointError> {
    if first_bytes.starts_with(LFS_POINTER) {
        return Err(CheckpointError::LfsPointer { file: file.to_owned() });
    }
    Ok(())
}

/// A JSON object as its pairs in order, so that a duplicate key can be detected.
pub(crate) struct Pairs<V>(pub(crate) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}
