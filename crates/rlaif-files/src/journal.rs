//! Results that one process adds to a file, line by line, as soon as they are there.

use std::{
    fs::{File, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::open_growing;

/// A file of JSON Lines that grows, locked as long as it is open.
///
/// ```
/// use rlaif_files::Journal;
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("scores.jsonl");
/// let (mut journal, lines) = Journal::open(&path)?;
/// assert!(lines.is_empty());
/// journal.append([1, 2])?;
/// assert_eq!(Journal::open(&path).err().unwrap().kind(), std::io::ErrorKind::WouldBlock);
/// drop(journal);
/// let (_, lines) = Journal::open(&path)?;
/// assert_eq!(lines.numbered().collect::<Vec<_>>(), [(1, &b"1"[..]), (2, &b"2"[..])]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

/// The whole lines of a journal when it was opened.
#[derive(Debug, Clone, Default)]
pub struct JournalLines {
    text: Vec<u8>,
}

impl JournalLines {
    /// Returns `true` for a new journal.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The lines that are not empty, with their numbers from 1.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let lines = self.text.split(|&byte| byte == b'\n').enumerate();
        lines.map(|(at, line)| (at + 1, line)).filter(|(_, line)| !line.is_empty())
    }
}

impl Journal {
    /// Opens or creates the file, as [`open_growing`] does, and reads it. A last line that was cut off
    /// is removed.
    ///
    /// # Errors
    /// Those of the file system; [`io::ErrorKind::WouldBlock`] if another process has the file. A file
    /// system without locks has processes that cannot see each other.
    pub fn open(path: &Path) -> io::Result<(Self, JournalLines)> {
        let mut file = open_growing(path)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            text.truncate(whole);
            file.set_len(whole as u64)?;
            file.seek(SeekFrom::End(0))?;
        }
        Ok((Self { path: path.to_owned(), file }, JournalLines { text }))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds lines in one write, so that a reader never sees half of a line.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn append(&mut self, lines: impl IntoIterator<Item = impl Serialize>) -> io::Result<()> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        self.file.write_all(&text)?;
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_off_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "1\n\n2\n3").unwrap();
        let (mut journal, lines) = Journal::open(&path).unwrap();
        assert_eq!(lines.numbered().collect::<Vec<_>>(), [(1, &b"1"[..]), (3, &b"2"[..])]);
        journal.append(["4"]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n\n2\n\"4\"\n");
    }
}
