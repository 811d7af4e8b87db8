//! Files that grow line by line, in folders that others may write to as well.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Opens a file to read and to append to; it is made if it is not there.
///
/// A symbolic link is refused, so that a user who can create links in a folder of results cannot
/// redirect writes to other files. Anything that is not a regular file is refused too.
///
/// # Errors
/// Those of the file system; [`io::ErrorKind::InvalidInput`] for a link, a pipe, a device.
///
/// ```
/// use std::io::Write;
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("log.txt");
/// writeln!(rlaif_files::open_growing(&path)?, "one")?;
/// writeln!(rlaif_files::open_growing(&path)?, "two")?;
/// assert_eq!(std::fs::read_to_string(&path)?, "one\ntwo\n");
/// # Ok::<(), std::io::Error>(())
/// ```
#[expect(clippy::disallowed_methods, reason = "the one place that appends to files")]
pub fn open_growing(path: &Path) -> io::Result<File> {
    let refused = || {
        let problem = "is a symbolic link or not a regular file; move it away";
        io::Error::new(io::ErrorKind::InvalidInput, problem)
    };
    // Before it is opened: a pipe would wait for ever.
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return Err(refused()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    // And after: it may have been replaced by a link meanwhile. Nothing was written.
    let (opened, named) = (file.metadata()?, fs::symlink_metadata(path)?);
    if !named.is_file() || !is_same(&opened, &named) {
        return Err(refused());
    }
    Ok(file)
}

/// Takes a folder for this process alone, as long as the file that is returned is open: `.lock` in it
/// is locked. A file system without locks has processes that cannot see each other, no more.
///
/// # Errors
/// Those of the file system; [`io::ErrorKind::WouldBlock`] if another process has the folder.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let lock = rlaif_files::lock_folder(folder.path())?;
/// let busy = rlaif_files::lock_folder(folder.path()).unwrap_err();
/// assert_eq!(busy.kind(), std::io::ErrorKind::WouldBlock);
/// drop(lock);
/// assert!(rlaif_files::lock_folder(folder.path()).is_ok());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn lock_folder(folder: &Path) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let file = open_growing(&folder.join(".lock"))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

#[cfg(unix)]
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(not(unix))]
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    one.len() == other.len()
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_is_refused_and_its_target_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("precious"), "as it was").unwrap();
        for (link, target) in [("to-a-file", "precious"), ("to-nothing", "nothing")] {
            symlink(path(target), path(link)).unwrap();
            let error = open_growing(&path(link)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        }
        assert_eq!(fs::read_to_string(path("precious")).unwrap(), "as it was");
        assert!(!path("nothing").exists());
        // The same of a file that is written aside.
        symlink(path("precious"), path("run.toml.partial")).unwrap();
        crate::write_bytes(&path("run.toml"), b"seed = 1\n").unwrap();
        assert_eq!(fs::read_to_string(path("precious")).unwrap(), "as it was");
        assert_eq!(fs::read_to_string(path("run.toml")).unwrap(), "seed = 1\n");
        assert!(open_growing(folder.path()).is_err());
    }
}
