//! Files that are there whole or not at all.

use rlaif_core::FileAction;
use std::io;
use std::path::Path;

use rlaif_files::JsonError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::EvalError;

/// Writes beside `path` and renames, so that a reader meets the old file or the new one. Two
/// evaluations may write one folder.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), EvalError> {
    let failed =
        |source| EvalError::Io { action: FileAction::Write, path: path.to_owned(), source };
    rlaif_files::write_shared(path, bytes).map_err(failed)
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), EvalError> {
    let failed =
        |source| EvalError::Io { action: FileAction::Write, path: path.to_owned(), source };
    rlaif_core::check_finite(value).map_err(|source| failed(io::Error::other(source)))?;
    let bytes = rlaif_files::to_json(value).map_err(|source| failed(source.into()))?;
    write(path, &bytes)
}

pub(crate) fn read_json<T: DeserializeOwned>(
    path: &Path,
    expected: &'static str,
) -> Result<T, EvalError> {
    rlaif_files::read_json(path).map_err(|error| match error {
        JsonError::Io(source) => {
            EvalError::Io { action: FileAction::Read, path: path.to_owned(), source }
        }
        JsonError::Json(source) => {
            EvalError::Format { path: path.to_owned(), line: source.line(), expected, source }
        }
    })
}
