//! Files that appear whole or not at all, see [`rlaif_files`].

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use crate::CheckpointError;

pub(super) fn write_error(path: &Path) -> impl Fn(std::io::Error) -> CheckpointError {
    |source| CheckpointError::Write { path: path.to_owned(), source }
}

/// Creates `path` with the output of `fill`, and leaves nothing behind if anything fails.
pub(super) fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    rlaif_files::write_aside(path, write_error(path), fill)
}

/// Writes any value as JSON, indented by two, to a temporary file that is renamed.
///
/// # Errors
///
/// [`CheckpointError::Write`], with nothing left behind. [`CheckpointError::Json`] if the value
/// cannot be JSON, such as a map whose keys are not strings.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("generation_config.json");
/// rlaif_checkpoint::write_json(&path, &serde_json::json!({"eos_token_id": 1}))?;
/// assert_eq!(std::fs::read_to_string(path)?, "{\n  \"eos_token_id\": 1\n}\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), CheckpointError> {
    let bytes = rlaif_files::to_json(value).map_err(|source| CheckpointError::Json {
        file: path.to_owned(),
        field: ".".to_owned(),
        source,
    })?;
    write_bytes(path, &bytes)
}

pub(super) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    write_file(path, |out| out.write_all(bytes).map_err(write_error(path)))
}

/// Makes renames within a folder durable, where the system can.
pub(super) fn sync_folder(folder: Option<&Path>) -> Result<(), CheckpointError> {
    let folder = folder.unwrap_or(Path::new(""));
    rlaif_files::sync_folder(folder).map_err(write_error(folder))
}
