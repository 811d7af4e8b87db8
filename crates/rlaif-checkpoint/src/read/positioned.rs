//! Reads by position: no shared cursor, so any number of threads read one file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rlaif_files::open_file;

use crate::CheckpointError;

/// One weights file, open for reads by position.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Shard {
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let read = |source| CheckpointError::Read { path: path.to_owned(), source };
        let file = open_file(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        Ok(Self { path: path.to_owned(), file, len: metadata.len() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Bytes in the file when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` from byte `offset` on.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), CheckpointError> {
        read_exact_at(&self.file, buffer, offset).map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                // Offsets were checked when the file was opened: it was cut since.
                let found = self.file.metadata().map_or(0, |metadata| metadata.len());
                let expected = offset.saturating_add(buffer.len() as u64);
                CheckpointError::FileLength { file: self.path.clone(), expected, found }
            } else {
                CheckpointError::Read { path: self.path.clone(), source }
            }
        })
    }

    /// The first `N` bytes, fewer if the file is shorter.
    pub(super) fn first_bytes<const N: usize>(&self) -> Result<Vec<u8>, CheckpointError> {
        let mut bytes = vec![0; self.len.min(N as u64) as usize];
        self.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// A sequential reader of the bytes from `begin` to `end`.
    pub(super) fn section(&self, begin: u64, end: u64) -> Section<'_> {
        Section { file: &self.file, position: begin, end }
    }
}

/// A part of a file as a [`Read`].
pub(super) struct Section<'a> {
    file: &'a File,
    position: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.position).min(buffer.len() as u64) as usize;
        if left == 0 {
            return Ok(0);
        }
        let read = read_at(self.file, &mut buffer[..left], self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match read_at(file, buffer, offset) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Ok(read) => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
