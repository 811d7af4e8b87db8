//! Keys of stages: hashes of everything that their results depend on.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use rlaif_data::{Source, builtin::Part};
use rlaif_files::Digest;
use sha2::{Digest as _, Sha256};
use toml::Table;

use crate::{error::RunError, resume::without_always, source::is_pattern};

/// Raised when results of the same settings change, so that no earlier ones are reused.
const VERSION: &str = concat!("1 ", env!("CARGO_PKG_VERSION"));

/// The key of a stage with these settings, in which locations are fingerprints.
pub(crate) fn key(command: &str, settings: &Table) -> Result<String, RunError> {
    let text = toml::to_string(&without_always(settings))
        .map_err(|source| RunError::Unwritable { source: source.into() })?;
    Ok(Digest::of([VERSION, command, &text].map(str::as_bytes)).hex(8))
}

/// A text that differs where the content of a location differs: a hash of a file, of the files that fit a
/// pattern, or of a folder; any other location, such as a hub id, is itself.
pub(crate) fn fingerprint(location: &str) -> Result<String, RunError> {
    if location.starts_with('@') || Part::of_name(location).is_some() {
        return Ok(location.to_owned());
    }
    let mut hash = Sha256::new();
    let path = Path::new(location);
    if is_pattern(location) {
        // In the order of their names.
        for file in Source::glob(location)?.paths() {
            update(&mut hash, file)?;
        }
    } else if path.exists() {
        update(&mut hash, path)?;
    } else {
        return Ok(location.to_owned());
    }
    Ok(format!("sha256:{}", rlaif_files::hex(&hash.finalize())))
}

/// Adds the content of a file, or the names and the content of the files in a folder.
fn update(hash: &mut Sha256, path: &Path) -> Result<(), RunError> {
    let failed = |source: io::Error| RunError::Read { path: path.to_owned(), source };
    if path.is_dir() {
        let mut entries: Vec<_> =
            fs::read_dir(path).and_then(Iterator::collect::<Result<_, _>>).map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            hash.update(entry.file_name().as_encoded_bytes());
            hash.update([0]);
            update(hash, &entry.path())?;
        }
        return Ok(());
    }
    let mut file = rlaif_files::open_file(path).map_err(failed)?;
    let mut buffer = vec![0; 1 << 20];
    let mut length = 0u64;
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        length += read as u64;
        hash.update(&buffer[..read]);
    }
    hash.update(length.to_le_bytes());
    Ok(())
}
