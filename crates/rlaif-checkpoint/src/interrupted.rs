//! A folder that is missing because a writer was killed while it replaced it.

use std::path::{Path, PathBuf};

use rlaif_files::sibling;

use crate::CheckpointError;

/// The end of the name that the old folder has until the new one is in its place.
pub(crate) const PREVIOUS: &str = ".previous.partial";

/// Explains a folder that is missing because a writer was killed while it replaced it.
pub(crate) fn refuse_interrupted(folder: &Path) -> Result<(), CheckpointError> {
    let folder: PathBuf = folder.components().collect();
    let previous = sibling(&folder, PREVIOUS);
    if !folder.exists() && previous.is_dir() {
        return Err(CheckpointError::Interrupted { folder, previous });
    }
    Ok(())
}
