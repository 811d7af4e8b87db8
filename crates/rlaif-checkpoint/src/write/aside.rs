//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::CheckpointError;

/// Large enough that small tensors do not cost a system call each.
const BUFFER: usize = 1 << 20;

/// A path beside `path`, with `suffix` added to its name.
pub(super) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(super) fn write_error(path: &Path) -> impl Fn(std::io::Error) -> CheckpointError {
    |source| CheckpointError::Write { path: path.to_owned(), source }
}

/// Creates `path` with what `fill` writes, and leaves nothing behind if anything fails.
pub(super) fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    let partial = sibling(path, ".partial");
    let error = write_error(path);
    let file = File::create(&partial).map_err(&error)?;
    let mut out = BufWriter::with_capacity(BUFFER, file);
    let written = fill(&mut out)
        .and_then(|()| out.into_inner().map_err(|e| error(e.into_error())))
        .and_then(|file| file.sync_all().map_err(&error))
        .and_then(|()| fs::rename(&partial, path).map_err(&error));
    if written.is_err() {
        // The first failure is what the caller needs to know.
        let _ = fs::remove_file(&partial);
    }
    written?;
    sync_folder(path.parent())
}

/// Writes any value as JSON, indented by two, aside and renamed.
///
/// # Errors
///
/// [`CheckpointError::Write`]; nothing is left behind then. [`CheckpointError::Json`] if the value
/// cannot be JSON, such as a map whose keys are no strings.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("generation_config.json");
/// rlaif_checkpoint::write_json(&path, &serde_json::json!({"eos_token_id": 1}))?;
/// assert_eq!(std::fs::read_to_string(path)?, "{\n  \"eos_token_id\": 1\n}\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), CheckpointError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| CheckpointError::Json {
        file: path.to_owned(),
        field: ".".to_owned(),
        source,
    })?;
    bytes.push(b'\n');
    write_bytes(path, &bytes)
}

pub(super) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    write_file(path, |out| out.write_all(bytes).map_err(write_error(path)))
}

/// Makes renames within a folder durable, where the system can.
pub(super) fn sync_folder(folder: Option<&Path>) -> Result<(), CheckpointError> {
    if cfg!(unix) {
        let folder = folder.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(write_error(folder))?;
    }
    Ok(())
}
