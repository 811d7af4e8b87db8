//! JSON files.

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{read_bytes, write_bytes};

/// A JSON file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The file system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The content is not JSON, or not of this type.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Returns a value as JSON, indented by two, with a line break at the end.
///
/// # Errors
/// A value that cannot be JSON, such as a map whose keys are not strings.
///
/// ```
/// let bytes = rlaif_files::to_json(&serde_json::json!({"eos_token_id": 1}))?;
/// assert_eq!(bytes, b"{\n  \"eos_token_id\": 1\n}\n");
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn to_json(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Writes a value as JSON, as [`write_bytes`] does.
///
/// # Errors
/// [`JsonError`]; nothing is left behind then.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("position.json");
/// rlaif_files::write_json(&path, &[1, 2])?;
/// assert_eq!(rlaif_files::read_json::<Vec<u32>>(&path)?, [1, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), JsonError> {
    Ok(write_bytes(path, &to_json(value)?)?)
}

/// Reads a value from a JSON file that the program itself wrote. For foreign files, which may be of any size,
/// `rlaif_checkpoint::read_json` has limits and names the field.
///
/// # Errors
/// [`JsonError`].
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("n.json");
/// std::fs::write(&path, "7")?;
/// assert_eq!(rlaif_files::read_json::<u8>(&path)?, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, JsonError> {
    Ok(serde_json::from_slice(&read_bytes(path, u64::MAX)?)?)
}
