//! Parses a chunk of rows into records: the task of the workers.

use std::collections::BTreeMap;
use std::sync::Arc;

use parquet::record::{Field, Row as ParquetRow};
use rlaif_core::python_json;
use serde_json::Value;

use super::chunk::Chunk;
use super::format::FileFormat;
use super::mode::Mode;
use super::not_finite;
use crate::corpora::{Corpus, Outcome};
use crate::error::DataError;
use crate::row::{Columns, NotFinite, Place, Row};

/// Number of errors that a lenient reading keeps to show.
pub(super) const SHOWN: usize = 5;

/// Rows to parse.
pub(super) enum Unparsed {
    JsonLines(Chunk),
    JsonArray(Chunk),
    Csv { chunk: Chunk, header: Arc<Vec<String>> },
    Parquet { rows: Vec<ParquetRow>, first: u64 },
}

/// The result of parsing some rows.
#[derive(Debug)]
pub(super) struct Parsed<R> {
    pub(super) records: Vec<R>,
    pub(super) tally: Tally,
    /// In strict mode, only the error that ended the parsing; in lenient mode, the first few
    /// errors.
    pub(super) errors: Vec<DataError>,
}

/// Counts of rows.
#[derive(Debug, Default, Clone)]
pub(super) struct Tally {
    pub(super) rows: u64,
    pub(super) kept: u64,
    pub(super) malformed: u64,
    pub(super) dropped: BTreeMap<&'static str, u64>,
    pub(super) noted: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.kept += other.kept;
        self.malformed += other.malformed;
        for (mine, theirs) in [(&mut self.dropped, &other.dropped), (&mut self.noted, &other.noted)]
        {
            for (reason, count) in theirs {
                *mine.entry(reason).or_default() += count;
            }
        }
    }
}

struct Parser<'a, C: Corpus> {
    corpus: &'a C,
    mode: Mode,
    source_name: &'a str,
    parsed: Parsed<C::Record>,
}

/// The rows as records, up to the first error in strict mode.
pub(super) fn parse<C: Corpus>(
    unparsed: Unparsed,
    corpus: &C,
    mode: Mode,
    source_name: &str,
) -> Parsed<C::Record> {
    let parsed = Parsed { records: Vec::new(), tally: Tally::default(), errors: Vec::new() };
    let mut parser = Parser { corpus, mode, source_name, parsed };
    match unparsed {
        Unparsed::JsonLines(chunk) => parser.json_lines(&chunk),
        Unparsed::JsonArray(chunk) => parser.json_array(&chunk),
        Unparsed::Csv { chunk, header } => parser.csv(&chunk, &header),
        Unparsed::Parquet { rows, first } => parser.parquet(rows, first),
    }
    parser.parsed
}

impl<C: Corpus> Parser<'_, C> {
    fn json_lines(&mut self, chunk: &Chunk) {
        // One check of the whole chunk is cheaper than a check of each row.
        let whole = std::str::from_utf8(&chunk.bytes).ok();
        let mut start = 0;
        let mut line = chunk.line;
        while start < chunk.bytes.len() {
            let end = memchr::memchr(b'\n', &chunk.bytes[start..])
                .map_or(chunk.bytes.len(), |at| start + at);
            let goes_on = match whole {
                Some(text) => self.json_line(&text[start..end], line),
                None => match std::str::from_utf8(&chunk.bytes[start..end]) {
                    Ok(text) => self.json_line(text, line),
                    Err(error) => {
                        let error = self.invalid_utf8(&chunk.bytes[start..end], line, error);
                        self.settle(Err(error))
                    }
                },
            };
            if !goes_on {
                return;
            }
            start = end + 1;
            line += 1;
        }
    }

    fn json_line(&mut self, text: &str, line: u64) -> bool {
        // Concatenated files have a byte-order mark at each beginning.
        let text = text.trim_start_matches('\u{feff}').trim_ascii();
        text.is_empty() || self.json(text, line)
    }

    fn json_array(&mut self, chunk: &Chunk) {
        for element in &chunk.elements {
            let row = &chunk.bytes[element.start..element.end];
            let goes_on = match std::str::from_utf8(row) {
                Ok(text) => self.json(text, element.line),
                Err(error) => {
                    let error = self.invalid_utf8(row, element.line, error);
                    self.settle(Err(error))
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    fn json(&mut self, text: &str, line: u64) -> bool {
        let place = Place { source_name: self.source_name, line };
        let outcome = match serde_json::from_str::<Columns<'_>>(text) {
            Ok(columns) => self.corpus.record(Row::new(place, columns)),
            Err(source) => {
                let mended = python_json::mended(text);
                match (serde_json::from_str::<Columns<'_>>(&mended), not_finite::read(&mended)) {
                    (Ok(columns), _) => self.corpus.record(Row::new(place, columns)),
                    (_, Some((columns, not_finite))) => {
                        self.corpus.record(Row::new(place, columns).with_not_finite(not_finite))
                    }
                    (Err(_), None) => Err(self.not_an_object(text, line, source)),
                }
            }
        };
        self.settle(outcome)
    }

    /// Valid JSON that is not an object has the wrong type; anything else is malformed.
    fn not_an_object(&self, text: &str, line: u64, source: serde_json::Error) -> DataError {
        match serde_json::from_str::<Value>(text) {
            Ok(value) if !value.is_object() => {
                let place = Place { source_name: self.source_name, line };
                Row::new(place, Columns(Vec::new())).wrong_type("row", "an object", &value)
            }
            _ => DataError::Json { source_name: self.source_name.to_owned(), line, source },
        }
    }

    fn invalid_utf8(&self, row: &[u8], line: u64, error: std::str::Utf8Error) -> DataError {
        let at = error.valid_up_to();
        DataError::InvalidUtf8 { source_name: self.source_name.to_owned(), line, at, byte: row[at] }
    }

    fn csv(&mut self, chunk: &Chunk, header: &[String]) {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(chunk.bytes.as_slice());
        let mut record = csv::ByteRecord::new();
        let (mut line, mut counted) = (chunk.line, 0);
        // Reading from memory cannot fail, and rows of any length are accepted.
        while reader.read_byte_record(&mut record).unwrap_or(false) {
            // The parser's position is before the end of the previous row and any blank lines.
            let behind = record.position().map_or(0, |position| position.byte() as usize);
            let blank =
                chunk.bytes[behind..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
            let start = behind + blank.count();
            line += memchr::memchr_iter(b'\n', &chunk.bytes[counted..start]).count() as u64;
            counted = start;
            let outcome = self.csv_row(&record, line, header);
            if !self.settle(outcome) {
                return;
            }
        }
    }

    fn csv_row(
        &self,
        record: &csv::ByteRecord,
        line: u64,
        header: &[String],
    ) -> Result<Outcome<C::Record>, DataError> {
        if record.len() != header.len() {
            return Err(DataError::CsvFields {
                source_name: self.source_name.to_owned(),
                line,
                expected: header.len(),
                found: record.len(),
            });
        }
        let mut columns = Vec::with_capacity(header.len());
        for (name, field) in header.iter().zip(record) {
            let text = std::str::from_utf8(field)
                .map_err(|error| self.invalid_utf8(field, line, error))?;
            columns.push((name.as_str().into(), Value::from(text)));
        }
        let place = Place { source_name: self.source_name, line };
        self.corpus.record(Row::new(place, Columns(columns)).of_texts_alone())
    }

    fn parquet(&mut self, rows: Vec<ParquetRow>, first: u64) {
        for (line, row) in (first..).zip(rows) {
            let fields = row.into_columns();
            let not_finite: NotFinite = fields
                .iter()
                .filter_map(|(name, field)| Some((name.clone(), written(field)?)))
                .collect();
            let columns = Columns(
                fields.into_iter().map(|(name, field)| (name.into(), value(field))).collect(),
            );
            let place = Place { source_name: self.source_name, line };
            let row = Row::new(place, columns).with_not_finite(not_finite);
            let outcome = self.corpus.record(row);
            if !self.settle(outcome) {
                return;
            }
        }
    }

    /// Counts a row; returns `false` when the parsing has to stop.
    fn settle(&mut self, outcome: Result<Outcome<C::Record>, DataError>) -> bool {
        let Parsed { records, tally, errors } = &mut self.parsed;
        tally.rows += 1;
        match outcome {
            Ok(Outcome::Kept(record)) => records.push(record),
            Ok(Outcome::Noted(record, remark)) => {
                *tally.noted.entry(remark).or_default() += 1;
                records.push(record);
            }
            Ok(Outcome::Dropped(reason)) => *tally.dropped.entry(reason).or_default() += 1,
            Err(error) => {
                tally.malformed += 1;
                if errors.len() < SHOWN {
                    errors.push(error);
                }
                return self.mode == Mode::Lenient;
            }
        }
        tally.kept = records.len() as u64;
        true
    }
}

/// Python's spelling of a non-finite number.
fn written(field: &Field) -> Option<&'static str> {
    let number = match field {
        Field::Float16(v) => f32::from(*v).into(),
        Field::Float(v) => f64::from(*v),
        Field::Double(v) => *v,
        _ => return None,
    };
    python_json::word(number)
}

/// A Parquet value as the equivalent JSON value. A number that JSON cannot express becomes null.
fn value(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(v) => v.into(),
        Field::Byte(v) => v.into(),
        Field::Short(v) => v.into(),
        Field::Int(v) | Field::Date(v) | Field::TimeMillis(v) => v.into(),
        Field::Long(v)
        | Field::TimeMicros(v)
        | Field::TimestampMillis(v)
        | Field::TimestampMicros(v) => v.into(),
        Field::UByte(v) => v.into(),
        Field::UShort(v) => v.into(),
        Field::UInt(v) => v.into(),
        Field::ULong(v) => v.into(),
        Field::Float16(v) => f32::from(v).into(),
        Field::Float(v) => v.into(),
        Field::Double(v) => v.into(),
        Field::Decimal(_) => field.to_string().into(),
        Field::Str(v) => v.into(),
        Field::Bytes(v) => match std::str::from_utf8(v.data()) {
            Ok(text) => text.into(),
            Err(_) => v.data().into(),
        },
        Field::Group(row) => {
            row.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect()
        }
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        Field::MapInternal(map) => map
            .entries()
            .iter()
            .map(|(key, field)| {
                let key = match key {
                    Field::Str(text) => text.clone(),
                    other => other.to_string(),
                };
                (key, value(field.clone()))
            })
            .collect(),
    }
}

/// Removes the header from the first chunk of a CSV file.
pub(super) fn take_csv_header(
    chunk: &mut Chunk,
    source_name: &str,
) -> Result<Vec<String>, DataError> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(chunk.bytes.as_slice());
    let mut record = csv::ByteRecord::new();
    if !reader.read_byte_record(&mut record).unwrap_or(false) {
        return Err(DataError::Empty { source_name: source_name.to_owned() });
    }
    let header = record
        .iter()
        .map(|name| {
            std::str::from_utf8(name).map(|name| name.trim().to_owned()).map_err(|error| {
                DataError::InvalidUtf8 {
                    source_name: source_name.to_owned(),
                    line: chunk.line,
                    at: error.valid_up_to(),
                    byte: name[error.valid_up_to()],
                }
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let end = usize::try_from(reader.position().byte()).unwrap_or(chunk.bytes.len());
    chunk.line += memchr::memchr_iter(b'\n', &chunk.bytes[..end]).count() as u64;
    chunk.bytes.drain(..end);
    Ok(header)
}

impl Unparsed {
    pub(super) fn text(chunk: Chunk, format: FileFormat, header: &Arc<Vec<String>>) -> Self {
        match format {
            FileFormat::JsonLines => Self::JsonLines(chunk),
            FileFormat::JsonArray => Self::JsonArray(chunk),
            FileFormat::Csv | FileFormat::Parquet => {
                Self::Csv { chunk, header: Arc::clone(header) }
            }
        }
    }
}
