//! Cuts the content of a file into chunks of whole rows, without parsing the rows.

use std::io::Read;

use memchr::{memchr_iter, memrchr};

use super::format::{BYTE_ORDER_MARK, FileFormat};
use super::input::Content;
use crate::error::DataError;

/// Size of the chunk that one worker parses at a time, in bytes.
const CHUNK: usize = 1 << 20;
/// Length limit of a row, in bytes: without one, memory would be unbounded.
pub(super) const LONGEST_ROW: usize = 64 << 20;

/// Some whole rows of a file.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    /// The line the chunk begins on.
    pub(super) line: u64,
    /// The elements of a JSON array; empty for the other formats.
    pub(super) elements: Vec<Element>,
}

/// One element of a JSON array, within a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) line: u64,
}

pub(super) struct Chunks<'a> {
    source_name: &'a str,
    content: &'a mut Content,
    scanner: Scanner,
    /// Bytes that were read and not yet returned; never begins within a row.
    buffer: Vec<u8>,
    /// Number of bytes of the buffer that the scanner has seen.
    scanned: usize,
    /// The line the buffer begins on.
    line: u64,
    failure: Option<DataError>,
    ended: bool,
}

enum Scanner {
    Lines,
    Csv(CsvScanner),
    Array(ArrayScanner),
}

impl<'a> Chunks<'a> {
    /// # Panics
    /// On Parquet, whose rows do not lie one after another.
    pub(super) fn new(source_name: &'a str, content: &'a mut Content, format: FileFormat) -> Self {
        let scanner = match format {
            FileFormat::JsonLines => Scanner::Lines,
            FileFormat::Csv => Scanner::Csv(CsvScanner::default()),
            FileFormat::JsonArray => Scanner::Array(ArrayScanner::new()),
            FileFormat::Parquet => unreachable!("Parquet is not read in chunks of text"),
        };
        Self {
            source_name,
            content,
            scanner,
            buffer: Vec::new(),
            scanned: 0,
            line: 1,
            failure: None,
            ended: false,
        }
    }

    /// The next chunk, or `None` at the end of the file. An error is returned after the rows before
    /// it.
    pub(super) fn next_chunk(&mut self) -> Result<Option<Chunk>, DataError> {
        if self.ended {
            return self.failure.take().map_or(Ok(None), Err);
        }
        let mut wanted = CHUNK;
        loop {
            let end_of_file = self.fill(wanted)?;
            let cut = self.scan(end_of_file);
            self.ended = end_of_file || self.failure.is_some();
            if cut > 0 {
                return Ok(Some(self.cut(cut)));
            }
            if self.ended {
                return self.failure.take().map_or(Ok(None), Err);
            }
            if self.buffer.len() >= LONGEST_ROW {
                self.ended = true;
                return Err(DataError::RowTooLong {
                    source_name: self.source_name.to_owned(),
                    line: self.line,
                    limit: LONGEST_ROW,
                });
            }
            wanted = self.buffer.len() * 2;
        }
    }

    /// Reads until the buffer holds `wanted` bytes; returns `true` at the end of the file.
    fn fill(&mut self, wanted: usize) -> Result<bool, DataError> {
        let missing = wanted.saturating_sub(self.buffer.len());
        self.buffer.reserve(missing);
        let read = Read::take(&mut *self.content, missing as u64).read_to_end(&mut self.buffer);
        let read = read.map_err(|error| {
            self.ended = true;
            self.content.explain(error)
        })?;
        let first = self.line == 1 && self.scanned == 0;
        if first && self.buffer.starts_with(BYTE_ORDER_MARK) {
            self.buffer.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(read < missing)
    }

    /// Number of bytes of the buffer that are whole rows.
    fn scan(&mut self, end_of_file: bool) -> usize {
        let before = std::mem::replace(&mut self.scanned, self.buffer.len());
        let new = &self.buffer[before..];
        match &mut self.scanner {
            Scanner::Lines if end_of_file => self.buffer.len(),
            Scanner::Lines => memrchr(b'\n', new).map_or(0, |at| before + at + 1),
            Scanner::Csv(scanner) => {
                scanner.scan(new, before);
                if end_of_file && scanner.state == CsvState::Quoted {
                    let lines = memchr_iter(b'\n', &self.buffer[..scanner.row_end]).count();
                    self.failure = Some(DataError::CsvQuote {
                        source_name: self.source_name.to_owned(),
                        line: self.line + lines as u64,
                    });
                } else if end_of_file {
                    return self.buffer.len();
                }
                scanner.row_end
            }
            Scanner::Array(scanner) => {
                let mut result = scanner.scan(new, before);
                if end_of_file && result.is_ok() {
                    result = scanner.at_end();
                }
                if let Err((expected, found)) = result {
                    self.failure = Some(DataError::JsonArray {
                        source_name: self.source_name.to_owned(),
                        line: scanner.line,
                        expected,
                        found,
                    });
                }
                scanner.elements.last().map_or(0, |element| element.end)
            }
        }
    }

    fn cut(&mut self, at: usize) -> Chunk {
        let rest = self.buffer[at..].to_vec();
        self.buffer.truncate(at);
        let bytes = std::mem::replace(&mut self.buffer, rest);
        self.scanned -= at;
        let line = self.line;
        self.line += memchr_iter(b'\n', &bytes).count() as u64;
        let elements = match &mut self.scanner {
            Scanner::Lines => Vec::new(),
            Scanner::Csv(scanner) => {
                scanner.row_end = 0;
                Vec::new()
            }
            Scanner::Array(scanner) => {
                scanner.start = scanner.start.saturating_sub(at);
                std::mem::take(&mut scanner.elements)
            }
        };
        Chunk { bytes, line, elements }
    }
}

/// Tracks quotes as the CSV parser does: a quote opens a field only at the field's beginning.
#[derive(Default)]
struct CsvScanner {
    state: CsvState,
    /// The end of the last whole row.
    row_end: usize,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum CsvState {
    #[default]
    FieldStart,
    Unquoted,
    Quoted,
    /// After a quote within quotes: the end of the field, or the first half of an escaped quote.
    QuoteInQuoted,
}

impl CsvScanner {
    fn scan(&mut self, new: &[u8], offset: usize) {
        for (at, byte) in new.iter().enumerate() {
            self.state = match (self.state, byte) {
                (CsvState::Quoted, b'"') => CsvState::QuoteInQuoted,
                (CsvState::Quoted, _) => CsvState::Quoted,
                (CsvState::QuoteInQuoted | CsvState::FieldStart, b'"') => CsvState::Quoted,
                (_, b',') => CsvState::FieldStart,
                (_, b'\n' | b'\r') => {
                    self.row_end = offset + at + 1;
                    CsvState::FieldStart
                }
                _ => CsvState::Unquoted,
            };
        }
    }
}

/// Finds the elements of a JSON array; the parser checks their validity.
struct ArrayScanner {
    state: ArrayState,
    elements: Vec<Element>,
    line: u64,
    /// The beginning of the current element, and its line.
    start: usize,
    start_line: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ArrayState {
    BeforeArray,
    /// After `[`: an element, or `]`.
    First,
    /// After a comma: an element.
    Next,
    /// Within an object or array.
    Nested {
        depth: u32,
    },
    /// Within a string: the element itself (depth 0), or inside an object or array.
    Text {
        depth: u32,
        escaped: bool,
    },
    /// Within a number or a word.
    Bare,
    /// After an element: a comma, or `]`.
    Behind,
    /// After `]`.
    Done,
}

type Unexpected = (&'static str, String);

impl ArrayScanner {
    fn new() -> Self {
        Self {
            state: ArrayState::BeforeArray,
            elements: Vec::new(),
            line: 1,
            start: 0,
            start_line: 1,
        }
    }

    fn scan(&mut self, new: &[u8], offset: usize) -> Result<(), Unexpected> {
        for (at, &byte) in new.iter().enumerate() {
            let at = offset + at;
            if byte == b'\n' {
                self.line += 1;
            }
            self.state = match self.state {
                ArrayState::Text { depth, escaped: true } => {
                    ArrayState::Text { depth, escaped: false }
                }
                ArrayState::Text { depth, .. } => match byte {
                    b'\\' => ArrayState::Text { depth, escaped: true },
                    b'"' if depth == 0 => self.close(at + 1),
                    b'"' => ArrayState::Nested { depth },
                    _ => self.state,
                },
                ArrayState::Nested { depth } => match byte {
                    b'"' => ArrayState::Text { depth, escaped: false },
                    b'{' | b'[' => ArrayState::Nested { depth: depth.saturating_add(1) },
                    b'}' | b']' if depth == 1 => self.close(at + 1),
                    b'}' | b']' => ArrayState::Nested { depth: depth - 1 },
                    _ => self.state,
                },
                ArrayState::Bare if !matches!(byte, b',' | b']') && !byte.is_ascii_whitespace() => {
                    ArrayState::Bare
                }
                ArrayState::Bare => {
                    self.close(at);
                    Self::behind(byte)?
                }
                _ if byte.is_ascii_whitespace() => self.state,
                ArrayState::BeforeArray if byte == b'[' => ArrayState::First,
                ArrayState::BeforeArray => return Err(("a `[`", character(byte))),
                ArrayState::First if byte == b']' => ArrayState::Done,
                ArrayState::First | ArrayState::Next => {
                    self.start = at;
                    self.start_line = self.line;
                    match byte {
                        b'{' | b'[' => ArrayState::Nested { depth: 1 },
                        b'"' => ArrayState::Text { depth: 0, escaped: false },
                        b',' | b']' | b'}' | b':' => return Err(("a row", character(byte))),
                        _ => ArrayState::Bare,
                    }
                }
                ArrayState::Behind => Self::behind(byte)?,
                ArrayState::Done => return Err(("nothing behind the array", character(byte))),
            };
        }
        Ok(())
    }

    fn close(&mut self, end: usize) -> ArrayState {
        self.elements.push(Element { start: self.start, end, line: self.start_line });
        ArrayState::Behind
    }

    fn behind(byte: u8) -> Result<ArrayState, Unexpected> {
        match byte {
            b',' => Ok(ArrayState::Next),
            b']' => Ok(ArrayState::Done),
            _ if byte.is_ascii_whitespace() => Ok(ArrayState::Behind),
            _ => Err(("a `,` or the closing `]`", character(byte))),
        }
    }

    fn at_end(&self) -> Result<(), Unexpected> {
        let expected = match self.state {
            ArrayState::Done => return Ok(()),
            ArrayState::BeforeArray => "a `[`",
            ArrayState::First | ArrayState::Next => "a row",
            ArrayState::Behind => "a `,` or the closing `]`",
            ArrayState::Nested { .. } | ArrayState::Text { .. } | ArrayState::Bare => {
                "the rest of the row"
            }
        };
        Err((expected, "the end of the file".to_owned()))
    }
}

fn character(byte: u8) -> String {
    if byte.is_ascii_graphic() {
        format!("`{}`", char::from(byte))
    } else {
        format!("the byte 0x{byte:02x}")
    }
}
