//! One file: written aside, synced, renamed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Large enough that small pieces do not cost a system call each.
const BUFFER: usize = 1 << 20;

/// The end of the name of everything that is not whole yet.
pub const PARTIAL: &str = ".partial";

/// Returns a path beside `path`, with `suffix` added to its name.
///
/// ```
/// let beside = rlaif_files::sibling("runs/a".as_ref(), ".partial");
/// assert_eq!(beside, std::path::Path::new("runs/a.partial"));
/// ```
#[must_use]
pub fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns a hidden path beside `path` that no other process or thread uses.
///
/// ```
/// let path = std::path::Path::new("cache/refs/main");
/// assert_ne!(rlaif_files::unique_sibling(path), rlaif_files::unique_sibling(path));
/// ```
#[must_use]
pub fn unique_sibling(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_else(|| "file".as_ref()));
    name.push(format!(".{}-{n}{PARTIAL}", std::process::id()));
    path.with_file_name(name)
}

/// Creates or replaces `path` by what `fill` writes. The file is written as `NAME.partial`, which
/// an earlier writer that was killed may have left; so there must be one writer at a time.
///
/// # Errors
/// Those of `fill`, and `error` of those of the file system. `path` is then as it was, and nothing
/// is left beside it.
///
/// ```
/// use std::io::Write;
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("numbers.txt");
/// rlaif_files::write_aside(&path, |error| error, |out| writeln!(out, "1 2 3"))?;
/// assert_eq!(std::fs::read_to_string(path)?, "1 2 3\n");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn write_aside<E>(
    path: &Path,
    error: impl Fn(io::Error) -> E,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    write_through(&sibling(path, PARTIAL), path, error, fill)
}

/// Creates or replaces `path` by `bytes`, as [`write_aside`] does.
///
/// # Errors
/// Those of the file system; nothing is left behind then.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("run.toml");
/// rlaif_files::write_bytes(&path, b"seed = 1\n")?;
/// assert_eq!(std::fs::read(path)?, b"seed = 1\n");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn write_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_aside(path, |error| error, |out| out.write_all(bytes))
}

/// Creates or replaces `path` by `bytes`, where several processes or threads may do so at once:
/// the last one wins, and readers see the file of one of them. Makes the folder.
///
/// # Errors
/// Those of the file system; nothing is left behind then.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("refs/main");
/// rlaif_files::write_shared(&path, b"0123abcd")?;
/// assert_eq!(std::fs::read(path)?, b"0123abcd");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn write_shared(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder_of(path))?;
    write_through(&unique_sibling(path), path, |error| error, |out| out.write_all(bytes))
}

fn write_through<E>(
    partial: &Path,
    path: &Path,
    error: impl Fn(io::Error) -> E,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    // What a killed writer left goes, and so does a link, which is not followed.
    match fs::remove_file(partial) {
        Err(failed) if failed.kind() != io::ErrorKind::NotFound => return Err(error(failed)),
        _ => {}
    }
    let file = File::create_new(partial).map_err(&error)?;
    let mut out = BufWriter::with_capacity(BUFFER, file);
    let written = fill(&mut out)
        .and_then(|()| out.into_inner().map_err(|e| error(e.into_error())))
        .and_then(|file| file.sync_all().map_err(&error))
        .and_then(|()| fs::rename(partial, path).map_err(&error));
    if written.is_err() {
        // The first failure is the one that the caller needs to know.
        let _ = fs::remove_file(partial);
    }
    written?;
    sync_folder(folder_of(path)).map_err(error)
}

/// Renames `from` to `to` and brings the renaming to the disk. The content must be there already.
///
/// # Errors
/// Those of the file system.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let [from, to] = ["download", "blob"].map(|name| folder.path().join(name));
/// std::fs::write(&from, "content")?;
/// rlaif_files::rename_synced(&from, &to)?;
/// assert!(to.exists() && !from.exists());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn rename_synced(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(folder_of(to))
}

/// Makes renames within a folder durable, where the system can.
///
/// # Errors
/// Those of the file system.
///
/// ```
/// rlaif_files::sync_folder(std::env::temp_dir().as_ref())?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let here = Path::new(".");
        let folder = if folder.as_os_str().is_empty() { here } else { folder };
        open_folder(folder)?.sync_all()?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a folder, which a pipe cannot be")]
fn open_folder(folder: &Path) -> io::Result<File> {
    File::open(folder)
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_bytes(&path, b"old").unwrap();
        let error = write_aside(
            &path,
            |e| e,
            |out| {
                out.write_all(b"half")?;
                Err(io::ErrorKind::StorageFull.into())
            },
        );
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn what_a_killed_writer_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(sibling(&path, PARTIAL), "much longer than what comes").unwrap();
        write_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn many_writers_at_once_leave_one_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/a");
        std::thread::scope(|scope| {
            for n in 0..8u8 {
                let path = &path;
                scope.spawn(move || write_shared(path, &[n; 5000]).unwrap());
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 5000 && bytes.iter().all(|b| *b == bytes[0]));
        assert_eq!(names(path.parent().unwrap()), ["a"]);
    }
}
