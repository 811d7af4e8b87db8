//! Bytes of a file: hashed as stored, decompressed as recognised.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use rlaif_core::Origin;
use rlaif_files::open_input;
use sha2::{Digest, Sha256};

use crate::compression::Compression;
use crate::error::DataError;
use crate::source::Input;

struct Hashed {
    file: Box<dyn Read + Send>,
    hash: Sha256,
    bytes: u64,
    read_so_far: Arc<AtomicU64>,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        self.read_so_far.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

type Stored = BufReader<Chain<Cursor<Vec<u8>>, Hashed>>;

enum Decoder {
    Plain(Stored),
    Gzip(Box<MultiGzDecoder<Stored>>),
    Zstd(zstd::Decoder<'static, Stored>),
}

/// The content of a file, with its first bytes inspected.
pub(super) struct Content {
    name: String,
    revision: Option<String>,
    decoder: Decoder,
    head: Cursor<Vec<u8>>,
}

/// Number of bytes that the recognition of the format may inspect.
const HEAD: u64 = 4096;
const STORED_BUFFER: usize = 256 * 1024;

impl Content {
    pub(super) fn open(input: &Input, read_so_far: Arc<AtomicU64>) -> Result<Self, DataError> {
        let io_error = |source| DataError::Io { source_name: input.name.clone(), source };
        let file: Box<dyn Read + Send> = match &input.content {
            Some(content) => Box::new(Cursor::new(Arc::clone(content))),
            None => Box::new(open_input(&input.path).map_err(io_error)?),
        };
        let mut stored = Hashed { file, hash: Sha256::new(), bytes: 0, read_so_far };
        let mut magic = Vec::new();
        stored.by_ref().take(4).read_to_end(&mut magic).map_err(io_error)?;
        let compression = Compression::recognise(&magic);
        let stored = BufReader::with_capacity(STORED_BUFFER, Cursor::new(magic).chain(stored));
        let decoder = match compression {
            None => Decoder::Plain(stored),
            Some(Compression::Gzip) => Decoder::Gzip(Box::new(MultiGzDecoder::new(stored))),
            Some(Compression::Zstd) => {
                Decoder::Zstd(zstd::Decoder::with_buffer(stored).map_err(io_error)?)
            }
        };
        let mut content = Self {
            name: input.name.clone(),
            revision: input.revision.clone(),
            decoder,
            head: Cursor::default(),
        };
        let mut head = Vec::new();
        let result = content.decoder.by_ref().take(HEAD).read_to_end(&mut head);
        result.map_err(|error| content.explain(error))?;
        content.head = Cursor::new(head);
        Ok(content)
    }

    pub(super) fn head(&self) -> &[u8] {
        self.head.get_ref()
    }

    pub(super) fn is_compressed(&self) -> bool {
        !matches!(self.decoder, Decoder::Plain(_))
    }

    /// Reads the rest, so that the hash is that of the whole file.
    pub(super) fn finish(mut self) -> Result<Origin, DataError> {
        let drained = io::copy(&mut self.decoder, &mut io::sink());
        drained.map_err(|error| self.explain(error))?;
        let mut stored = match self.decoder {
            Decoder::Plain(stored) => stored,
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Zstd(decoder) => decoder.finish(),
        };
        while !stored
            .fill_buf()
            .map_err(|source| DataError::Io { source_name: self.name.clone(), source })?
            .is_empty()
        {
            let count = stored.buffer().len();
            stored.consume(count);
        }
        let (_, hashed) = stored.into_inner().into_inner();
        Ok(Origin {
            source: self.name,
            revision: self.revision,
            sha256: Some(rlaif_files::hex(&hashed.hash.finalize())),
            bytes: Some(hashed.bytes),
        })
    }

    /// The meaning of a failed read for the file.
    pub(super) fn explain(&self, source: io::Error) -> DataError {
        let source_name = self.name.clone();
        let compression = match self.decoder {
            Decoder::Plain(_) => return DataError::Io { source_name, source },
            Decoder::Gzip(_) => Compression::Gzip,
            Decoder::Zstd(_) => Compression::Zstd,
        };
        match source.kind() {
            io::ErrorKind::UnexpectedEof => DataError::Truncated { source_name, compression },
            _ if source.raw_os_error().is_some() => DataError::Io { source_name, source },
            _ => DataError::Damaged { source_name, compression, source },
        }
    }
}

impl Read for Decoder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
            Self::Zstd(reader) => reader.read(buffer),
        }
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.head.read(buffer)? {
            0 => self.decoder.read(buffer),
            count => Ok(count),
        }
    }
}
