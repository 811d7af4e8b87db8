//! A folder that takes the place of another.

use std::fs;
use std::io;
use std::path::Path;

use crate::aside::{folder_of, sync_folder};

/// Puts the folder `new` in the place `target`, and moves what was there to `old`, which must not
/// exist. Returns true if there was something; it is the caller's to remove.
///
/// A process that is killed in between leaves `old` and no `target`.
///
/// # Errors
/// Those of the file system. What was in the place is there again, if that can be done.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let [new, target, old] = ["new", "target", "old"].map(|name| folder.path().join(name));
/// std::fs::create_dir(&new)?;
/// std::fs::create_dir(&target)?;
/// std::fs::write(new.join("a"), "")?;
/// assert!(rlaif_files::replace_folder(&new, &target, &old)?);
/// assert!(target.join("a").exists() && old.exists() && !new.exists());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn replace_folder(new: &Path, target: &Path, old: &Path) -> io::Result<bool> {
    sync_folder(new)?;
    // A folder cannot be renamed over one that has content.
    let replaces = target.exists();
    if replaces {
        fs::rename(target, old)?;
    }
    if let Err(error) = fs::rename(new, target) {
        if replaces {
            // The first failure is the one that the caller needs to know.
            let _ = fs::rename(old, target);
        }
        return Err(error);
    }
    sync_folder(folder_of(target))?;
    Ok(replaces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_comes_back_if_the_new_folder_cannot_take_its_place() {
        let folder = tempfile::tempdir().unwrap();
        // The new folder moves away together with the target that it is in.
        let [new, target, old] =
            ["target/new", "target", "old"].map(|name| folder.path().join(name));
        fs::create_dir_all(&new).unwrap();
        fs::write(target.join("kept"), "").unwrap();
        replace_folder(&new, &target, &old).unwrap_err();
        assert!(target.join("kept").exists() && !old.exists());
    }
}
