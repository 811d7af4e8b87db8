//! Errors of data.

use std::path::PathBuf;

use rlaif_core::{CodecError, Fault, is_bad_input_file, python_json};

use crate::compression::Compression;

/// Errors of reading, splitting and mixing data, and of making prompts.
///
/// `source_name` names the file as it was asked for: a path, or a hub id and the file within.
/// Lines count from 1, and so do the rows of formats that have no lines.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused.
    #[error("cannot read {source_name}: {source}")]
    Io {
        /// The file.
        source_name: String,
        /// The operating system's message.
        #[source]
        source: std::io::Error,
    },
    /// A malformed path pattern.
    #[error("`{pattern}` is not a path pattern: {source}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The fault found.
        #[source]
        source: glob::PatternError,
    },
    /// A path pattern that matches no file.
    #[error("no file matches `{pattern}`; check the folder and the spelling")]
    NoMatch {
        /// The pattern.
        pattern: String,
    },
    /// A folder where a file was expected.
    #[error("{} is a folder; name a file in it, or a pattern such as `{}/*.jsonl`", path.display(), path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// A Git LFS pointer in place of the data.
    #[error(
        "{source_name} is a Git LFS pointer, not the data it stands for; run `git lfs pull` where \
         it was cloned, or download the file itself"
    )]
    LfsPointer {
        /// The file.
        source_name: String,
    },
    /// A file of an unsupported format.
    #[error(
        "{source_name} is {what}, which is not supported; give JSON Lines, a JSON array, CSV with \
         commas or Parquet, in UTF-8, plain or compressed by gzip or zstd"
    )]
    Foreign {
        /// The file.
        source_name: String,
        /// The format found.
        what: &'static str,
    },
    /// Neither a file nor standard input: a named pipe, a device, a socket.
    #[error("{} is {what}, not a file; save its output to a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// The kind found.
        what: &'static str,
    },
    /// A compressed file ends too early.
    #[error(
        "{source_name} is cut off: its {compression} stream has no end; copy or download it again"
    )]
    Truncated {
        /// The file.
        source_name: String,
        /// The compression.
        compression: Compression,
    },
    /// A compressed file is damaged.
    #[error("{source_name} is damaged: {compression} says {source}; copy or download it again")]
    Damaged {
        /// The file.
        source_name: String,
        /// The compression.
        compression: Compression,
        /// The decompressor's message.
        #[source]
        source: std::io::Error,
    },
    /// An empty file.
    #[error("{source_name} is empty; give a file with rows")]
    Empty {
        /// The file.
        source_name: String,
    },
    /// Text without rows, whose first line is taken for the header of a CSV file.
    #[error(
        "{source_name} has no rows: it begins with neither `{{` (JSON Lines) nor `[` (a JSON array), so its \
         first line, `{header}`, is taken for the header of a CSV file, and nothing follows it"
    )]
    HeaderAlone {
        /// The file.
        source_name: String,
        /// The beginning of the line.
        header: String,
    },
    /// Rows were read, but none of them became a record.
    #[error("none of the {rows} rows read became a record ({})", reasons(dropped, *malformed))]
    NoRecords {
        /// Count of rows.
        rows: u64,
        /// Count of rows that could not be read.
        malformed: u64,
        /// Counts of rows that were left out, by reason.
        dropped: Vec<(&'static str, u64)>,
        /// The error of the first row that could not be read.
        #[source]
        first: Option<Box<DataError>>,
    },
    /// A row longer than the limit.
    #[error(
        "{source_name}, line {line}: a row of more than {limit} bytes; check for an unclosed \
         quote, or for another format"
    )]
    RowTooLong {
        /// The file.
        source_name: String,
        /// The line on which the row begins.
        line: u64,
        /// The length limit of a row, in bytes.
        limit: usize,
    },
    /// Text that is not UTF-8.
    #[error(
        "{source_name}, line {line}: byte {at} of the row, 0x{byte:02x}, is not UTF-8; convert \
         the file to UTF-8"
    )]
    InvalidUtf8 {
        /// The file.
        source_name: String,
        /// The line on which the row begins.
        line: u64,
        /// Bytes of the row before the offending one.
        at: usize,
        /// The offending byte.
        byte: u8,
    },
    /// A row that is not JSON.
    #[error(
        "{source_name}, line {line}: not a JSON object: {source}{}",
        python_json::remedy(source)
    )]
    Json {
        /// The file.
        source_name: String,
        /// The line on which the row begins.
        line: u64,
        /// The parser's message; its own line and column count from the beginning of the row.
        #[source]
        source: serde_json::Error,
    },
    /// A JSON array with a fault between rows, or without an end.
    #[error("{source_name}, line {line}: in the JSON array: expected {expected}, found {found}")]
    JsonArray {
        /// The file.
        source_name: String,
        /// The line of the fault.
        line: u64,
        /// The expected value.
        expected: &'static str,
        /// The value found.
        found: String,
    },
    /// A CSV row that does not fit the header.
    #[error(
        "{source_name}, line {line}: {found} fields where the header has {expected}; quote \
         fields that contain commas or line breaks"
    )]
    CsvFields {
        /// The file.
        source_name: String,
        /// The line on which the row begins.
        line: u64,
        /// Number of columns of the header.
        expected: usize,
        /// Number of fields of the row.
        found: usize,
    },
    /// A quoted CSV field that never ends.
    #[error("{source_name}, line {line}: this row opens a quote that is never closed")]
    CsvQuote {
        /// The file.
        source_name: String,
        /// The line on which the row begins.
        line: u64,
    },
    /// A Parquet file that cannot be read.
    #[error("{source_name} cannot be read as Parquet: {source}")]
    Parquet {
        /// The file.
        source_name: String,
        /// The Parquet reader's message.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// A Parquet file so broken that the Parquet reader panicked.
    #[error(
        "{source_name} cannot be read as Parquet: its structure is inconsistent; download it \
         again"
    )]
    ParquetStructure {
        /// The file.
        source_name: String,
    },
    /// Rows of an unknown form.
    #[error(
        "{source_name}: the columns are {}, which is not a known form of rows; name the columns, \
         or convert them to one of the forms in docs/data.md, for example `prompt`, `chosen` and \
         `rejected`{}",
        list(found),
        of_csv(found)
    )]
    UnknownForm {
        /// The file.
        source_name: String,
        /// The columns that are there.
        found: Vec<String>,
    },
    /// Rows of a form that does not contain the requested records.
    #[error(
        "{source_name}: rows of {form} (columns {}) do not contain {wanted}; docs/data.md lists the forms \
         that do",
        list_of(form.columns())
    )]
    WrongForm {
        /// The file.
        source_name: String,
        /// The form.
        form: crate::import::RowForm,
        /// The requested kind of record.
        wanted: &'static str,
    },
    /// A missing column that the record needs.
    #[error("{source_name}, line {line}: no column `{column}`; the columns are {}", list(found))]
    MissingColumn {
        /// The file.
        source_name: String,
        /// The row.
        line: u64,
        /// The column that was looked for.
        column: String,
        /// The columns that are there.
        found: Vec<String>,
    },
    /// A column of another type than the record needs.
    #[error("{source_name}, line {line}: `{column}` should be {expected}, but is {found}")]
    WrongType {
        /// The file.
        source_name: String,
        /// The row.
        line: u64,
        /// The column, or `row` when the row itself is meant.
        column: String,
        /// The type that the record needs.
        expected: &'static str,
        /// The value found, shortened.
        found: String,
    },
    /// A row that does not deserialise into the requested type.
    #[error("{source_name}, line {line}: {source}; the columns are {}", list(found))]
    Deserialize {
        /// The file.
        source_name: String,
        /// The row.
        line: u64,
        /// The columns that are there.
        found: Vec<String>,
        /// Serde's message.
        #[source]
        source: serde_json::Error,
    },
    /// A text that should be a dialogue and is not.
    #[error("{source_name}, line {line}: `{column}` {problem}")]
    Dialogue {
        /// The file.
        source_name: String,
        /// The row.
        line: u64,
        /// The column of the text.
        column: &'static str,
        /// The fault found.
        problem: crate::turns::DialogueProblem,
    },
    /// Files of a hub dataset that cannot be downloaded or found.
    #[error("the dataset `{dataset}`: {source}")]
    Hub {
        /// The dataset's id.
        dataset: String,
        /// The hub's error, with advice.
        #[source]
        source: Box<rlaif_hub::HubError>,
    },
    /// A part that the hub dataset does not have.
    #[error("the dataset `{dataset}` has no {what} `{asked}`; it has {}", list(found))]
    HubLayout {
        /// The dataset's id.
        dataset: String,
        /// Folder, configuration or split.
        what: &'static str,
        /// The requested name.
        asked: String,
        /// The existing names.
        found: Vec<String>,
    },
    /// A fraction out of range.
    #[error("{value} is not a fraction to hold out; give a number above 0 and below 1")]
    Fraction {
        /// The number given.
        value: f64,
    },
    /// One side of a split would be empty.
    #[error(
        "splitting {records} records leaves the {side} side empty; give more records or another \
         fraction than {fraction}"
    )]
    EmptySplit {
        /// The empty side.
        side: SplitSide,
        /// Count of records.
        records: usize,
        /// The fraction that was to be held out.
        fraction: f64,
    },
    /// A dataset without records, to draw from.
    #[error("there is nothing to draw from: {of} has no records")]
    NothingToDraw {
        /// The dataset.
        of: String,
    },
    /// An invalid weight of a mixture.
    #[error("source {index} of the mixture has weight {weight}; weights are above 0 and finite")]
    Weight {
        /// Index of the source, from 0.
        index: usize,
        /// The weight.
        weight: f64,
    },
    /// A saved position of other records or of another order.
    #[error(
        "the saved position belongs to another order: its fingerprint is {found:016x}, that of \
         these records and this order {expected:016x}; resume with the data, seed and grouping it was saved \
         with"
    )]
    Position {
        /// The fingerprint of the current order.
        expected: u64,
        /// The fingerprint in the saved position.
        found: u64,
    },
    /// A wrong number of lengths for batching by length.
    #[error("{lengths} lengths for {records} records; give one length for each record")]
    Lengths {
        /// Count of lengths.
        lengths: usize,
        /// Count of records.
        records: usize,
    },
    /// A batch larger than the number of records.
    #[error(
        "a batch of {size} cannot be filled from {records} records; lower the batch size or keep \
         the remainder"
    )]
    BatchTooLarge {
        /// Records in a batch.
        size: usize,
        /// Count of records.
        records: usize,
    },
    /// A template without exactly one slot.
    #[error(
        "a prompt template needs the slot `{{dialogue}}` exactly once, but has it {found} times"
    )]
    TemplateSlot {
        /// Number of its occurrences.
        found: usize,
    },
    /// A prompt limit that the instruction alone exceeds.
    #[error(
        "the instruction alone takes {needed} tokens of `{codec}`, but a prompt may have {limit}; \
         raise the limit or shorten the instruction"
    )]
    TokenLimit {
        /// The tokenizer.
        codec: String,
        /// Tokens of the instruction with an empty dialogue.
        needed: usize,
        /// The limit.
        limit: usize,
    },
    /// The tokenizer failed.
    #[error("record `{id}`: {source}")]
    Codec {
        /// The record.
        id: String,
        /// The tokenizer's message.
        #[source]
        source: CodecError,
    },
}

/// A side of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitSide {
    /// Records for training.
    Train,
    /// Records for evaluation.
    HeldOut,
}

impl std::fmt::Display for SplitSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::HeldOut => "held-out",
        })
    }
}

/// A remark on a single column whose name looks like a line of another kind of file.
fn of_csv(found: &[String]) -> &'static str {
    let is_name = |name: &String| name.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
    match found {
        [only] if !is_name(only) => {
            " (a file that begins with neither `{` nor `[` is read as CSV, its first line as the header)"
        }
        _ => "",
    }
}

impl Fault for DataError {
    fn is_users(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_bad_input_file(source),
            Self::Hub { source, .. } => source.is_users(),
            Self::Codec { source, .. } => source.is_users(),
            // Patterns, files and rows.
            Self::Pattern { .. }
            | Self::NoMatch { .. }
            | Self::Folder { .. }
            | Self::LfsPointer { .. }
            | Self::Foreign { .. }
            | Self::NotAFile { .. }
            | Self::UnknownForm { .. }
            | Self::WrongForm { .. }
            | Self::Truncated { .. }
            | Self::Damaged { .. }
            | Self::Empty { .. }
            | Self::HeaderAlone { .. }
            | Self::NoRecords { .. }
            | Self::RowTooLong { .. }
            | Self::InvalidUtf8 { .. }
            | Self::Json { .. }
            | Self::JsonArray { .. }
            | Self::CsvFields { .. }
            | Self::CsvQuote { .. }
            | Self::Parquet { .. }
            | Self::ParquetStructure { .. }
            | Self::MissingColumn { .. }
            | Self::WrongType { .. }
            | Self::Deserialize { .. }
            | Self::Dialogue { .. }
            | Self::HubLayout { .. } => true,
            // Settings.
            Self::Fraction { .. }
            | Self::EmptySplit { .. }
            | Self::NothingToDraw { .. }
            | Self::Weight { .. }
            | Self::Position { .. }
            | Self::BatchTooLarge { .. }
            | Self::TemplateSlot { .. }
            | Self::TokenLimit { .. } => true,
            // The caller's code.
            Self::Lengths { .. } => false,
        }
    }
}

/// Reasons for leaving out rows, with their counts.
fn reasons(dropped: &[(&'static str, u64)], malformed: u64) -> String {
    let malformed = (malformed > 0 || dropped.is_empty()).then_some(("malformed", malformed));
    let all = dropped.iter().copied().chain(malformed);
    all.map(|(why, n)| format!("{why}: {n}")).collect::<Vec<_>>().join(", ")
}

fn list(columns: &[String]) -> String {
    if columns.is_empty() {
        return "none at all".to_owned();
    }
    columns.iter().map(|column| format!("`{column}`")).collect::<Vec<_>>().join(", ")
}

fn list_of(columns: &[&str]) -> String {
    columns.iter().map(|column| format!("`{column}`")).collect::<Vec<_>>().join(", ")
}
