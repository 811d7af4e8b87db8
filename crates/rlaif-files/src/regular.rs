//! Files that are read, which may be something else than files.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Opens a regular file to read.
///
/// A named pipe would wait for a writer for ever, and a device may never end, so both are refused
/// before they are opened, and so are folders and sockets.
///
/// # Errors
/// Those of the file system; [`ErrorKind::IsADirectory`] for a folder, and
/// [`ErrorKind::InvalidInput`] for anything else that is not a regular file.
///
/// ```
/// let error = rlaif_files::open_file("/dev/null".as_ref()).unwrap_err();
/// assert_eq!(error.to_string(), "is a device, not a file; save its output to a file");
/// ```
pub fn open_file(path: &Path) -> io::Result<File> {
    refuse(&fs::metadata(path)?)?;
    let file = open(path)?;
    // Again: it may have been replaced meanwhile.
    refuse(&file.metadata()?)?;
    Ok(file)
}

/// Opens a file of rows: a regular file, standard input (`/dev/stdin`), or the file that a shell opens for
/// `<(command)`.
///
/// # Errors
/// As [`open_file`].
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("rows.jsonl");
/// std::fs::write(&path, "{}\n")?;
/// assert_eq!(std::io::read_to_string(rlaif_files::open_input(&path)?)?, "{}\n");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn open_input(path: &Path) -> io::Result<File> {
    if !is_open_already(path) {
        return open_file(path);
    }
    let file = open(path)?;
    if file.metadata()?.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    Ok(file)
}

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// As [`open_file`]; [`ErrorKind::InvalidData`] for a longer file.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("run.toml");
/// std::fs::write(&path, "seed = 1\n")?;
/// assert_eq!(rlaif_files::read_bytes(&path, 9)?, b"seed = 1\n");
/// let error = rlaif_files::read_bytes(&path, 8).unwrap_err();
/// assert_eq!(error.to_string(), "has 9 bytes, more than the 8 that such a file may have");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read_bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open_file(path)?;
    let told = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let found = told.max(bytes.len() as u64);
        let problem = format!("has {found} bytes, more than the {most} that such a file may have");
        return Err(io::Error::new(ErrorKind::InvalidData, problem));
    }
    Ok(bytes)
}

/// Reads a regular file of at most `most` bytes of UTF-8.
///
/// # Errors
/// As [`read_bytes`]; [`ErrorKind::InvalidData`] names the first byte that is not UTF-8.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("judge.toml");
/// std::fs::write(&path, b"name = \"\xff\"\n")?;
/// let error = rlaif_files::read_text(&path, 1 << 20).unwrap_err();
/// assert_eq!(error.to_string(), "is not UTF-8: the byte at position 8 cannot stand there");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read_bytes(path, most)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let problem = format!("is not UTF-8: the byte at position {at} cannot stand there");
        io::Error::new(ErrorKind::InvalidData, problem)
    })
}

/// `true` for standard input, and for the files that a shell opens for `<(command)`.
///
/// ```
/// assert!(rlaif_files::is_open_already("/dev/fd/63".as_ref()));
/// assert!(!rlaif_files::is_open_already("rows.jsonl".as_ref()));
/// ```
#[must_use]
pub fn is_open_already(path: &Path) -> bool {
    path == Path::new("/dev/stdin")
        || path.starts_with("/dev/fd")
        || path.starts_with("/proc/self/fd")
}

/// Returns a noun phrase for a file that is neither a regular file nor a folder: `a named pipe`.
///
/// ```
/// let kind = std::fs::metadata("/dev/null")?.file_type();
/// assert_eq!(rlaif_files::kind_of_file(kind), "a device");
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn kind_of_file(kind: fs::FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a named pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    let _ = kind;
    "something else than a file"
}

fn refuse(metadata: &fs::Metadata) -> io::Result<()> {
    if metadata.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        let kind = kind_of_file(metadata.file_type());
        let problem = format!("is {kind}, not a file; save its output to a file");
        return Err(io::Error::new(ErrorKind::InvalidInput, problem));
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the one place that opens files to read")]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn pipes_devices_sockets_and_folders_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(path("fifo")).status().unwrap();
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        // A link does not hide them.
        std::os::unix::fs::symlink(path("fifo"), path("link")).unwrap();
        for (file, is) in [
            (path("fifo"), "a named pipe"),
            (path("link"), "a named pipe"),
            (path("socket"), "a socket"),
            ("/dev/zero".into(), "a device"),
        ] {
            for error in [
                open_file(&file).unwrap_err(),
                open_input(&file).unwrap_err(),
                read_bytes(&file, 10).unwrap_err(),
                read_text(&file, 10).unwrap_err(),
            ] {
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                assert!(error.to_string().contains(is), "{error}");
            }
        }
        assert_eq!(open_file(folder.path()).unwrap_err().kind(), ErrorKind::IsADirectory);
    }
}
