//! Files that are there whole or not at all.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::EvalError;

/// Writes beside `path` and renames, so that a reader meets the old file or the new one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), EvalError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let attempt = || {
        std::fs::create_dir_all(folder)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".").suffix(".partial");
        // A temporary file is its owner's alone by default; a report is for everyone to read.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    };
    attempt().map_err(|source| EvalError::Io { action: "write", path: path.to_owned(), source })
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), EvalError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| EvalError::Io {
        action: "write",
        path: path.to_owned(),
        source: source.into(),
    })?;
    bytes.push(b'\n');
    write(path, &bytes)
}

pub(crate) fn read_json<T: DeserializeOwned>(
    path: &Path,
    expected: &'static str,
) -> Result<T, EvalError> {
    let bytes = std::fs::read(path).map_err(|source| EvalError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|source| EvalError::Format {
        path: path.to_owned(),
        line: source.line(),
        expected,
        source,
    })
}
