//! Reads JSON Lines and writes JSON Lines in the same order; rows are batched by length in between.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::Path,
};

use rlaif_core::{
    check_finite,
    python_json::{LineError, line},
};
use rlaif_files::open_input;
use serde::{Serialize, de::DeserializeOwned};

use super::error::{CommandError, RowFault, at_least_one};
use crate::error::RunError;

/// The input rows of a command, and the place for its results.
pub struct RowStream<'a> {
    /// JSON Lines; `-` is standard input.
    pub input: &'a Path,
    /// Rows per batch.
    pub batch_size: usize,
    /// One line for each row.
    pub output: &'a mut dyn Write,
    /// Called for each window of rows, and for each generated token.
    pub progress: &'a mut dyn FnMut(StreamProgress),
}

/// Progress of a command on rows.
#[derive(Debug, Clone, Copy)]
pub enum StreamProgress {
    /// The rows of this part of the input are done.
    Input {
        /// Bytes so far.
        done: u64,
        /// Size of the input in bytes, if known.
        size: Option<u64>,
    },
    /// Responses to the rows that were read ahead.
    Responses {
        /// Complete responses.
        done: usize,
        /// Number of rows.
        of: usize,
        /// Tokens so far.
        tokens: u64,
    },
}

/// Number of batches read ahead: enough to group rows of similar length.
const WINDOW: usize = 64;

/// A command's computation on rows.
pub(super) trait Job {
    /// A row of the input.
    type Input: DeserializeOwned;
    /// A row prepared for the computation.
    type Prepared;
    /// A row of the output.
    type Output: Serialize;
    /// The fields of a row, for error messages.
    const FIELDS: &'static str;

    /// Prepares rows; the result has one entry for each.
    fn prepare(&self, rows: Vec<Self::Input>) -> Vec<Result<Self::Prepared, RowFault>>;
    /// The model, for error messages.
    fn model(&self) -> &str;
    /// Length of a row in tokens: rows of similar length are computed together.
    fn length(row: &Self::Prepared) -> usize;
    /// Number of rows that [`Job::compute`] takes at a time.
    fn together(&self, batch_size: usize) -> usize {
        batch_size
    }
    /// Computes a batch, in order.
    fn compute(
        &self,
        rows: &[&Self::Prepared],
        progress: &mut dyn FnMut(StreamProgress),
    ) -> Result<Vec<Self::Output>, CommandError>;
}

impl RowStream<'_> {
    /// Runs a job over the input.
    pub(super) fn run<J: Job>(mut self, job: &J) -> Result<(), CommandError> {
        at_least_one(&[("batch_size", self.batch_size)])?;
        let mut lines = self.open()?;
        loop {
            (self.progress)(StreamProgress::Input { done: lines.read, size: lines.bytes });
            let rows = lines.take::<J>(self.batch_size.saturating_mul(WINDOW))?;
            if rows.is_empty() {
                return Ok(());
            }
            for (line, row) in self.window(job, rows, &lines.name)? {
                if let Err(source) = check_finite(&row) {
                    // Results computed before an error are written.
                    self.output.flush().map_err(CommandError::Output)?;
                    let (source_name, model) = (lines.name, job.model().to_owned());
                    return Err(CommandError::NotFinite { source_name, line, model, source });
                }
                serde_json::to_writer(&mut *self.output, &row)
                    .map_err(|error| CommandError::Output(error.into()))?;
                self.output.write_all(b"\n").map_err(CommandError::Output)?;
            }
            self.output.flush().map_err(CommandError::Output)?;
        }
    }

    /// Computes the rows of one window in batches of similar length, and returns them in order, with
    /// the numbers of their lines.
    fn window<J: Job>(
        &mut self,
        job: &J,
        rows: Vec<Numbered<J::Input>>,
        source_name: &str,
    ) -> Result<Vec<Numbered<J::Output>>, CommandError> {
        let (lines, rows): (Vec<usize>, Vec<J::Input>) = rows.into_iter().unzip();
        let prepared = job.prepare(rows).into_iter().zip(&lines).map(|(row, &line)| {
            row.map_err(|problem| CommandError::Row {
                source_name: source_name.to_owned(),
                line,
                problem: Box::new(problem),
            })
        });
        let prepared = prepared.collect::<Result<Vec<_>, _>>()?;
        let mut order: Vec<usize> = (0..prepared.len()).collect();
        order.sort_by_key(|&i| J::length(&prepared[i]));
        let mut done: Vec<(usize, J::Output)> = Vec::with_capacity(prepared.len());
        for batch in order.chunks(job.together(self.batch_size)) {
            let rows: Vec<&J::Prepared> = batch.iter().map(|&i| &prepared[i]).collect();
            let place = |row: usize| format!("{source_name}, line {}", lines[batch[row]]);
            let computed =
                job.compute(&rows, self.progress).map_err(|error| error.in_row(place))?;
            done.extend(batch.iter().copied().zip(computed));
        }
        done.sort_by_key(|(i, _)| *i);
        Ok(done.into_iter().map(|(i, row)| (lines[i], row)).collect())
    }

    fn open(&self) -> Result<Lines, CommandError> {
        if self.input == Path::new("-") {
            let reader = Box::new(io::stdin().lock());
            let name = "standard input".to_owned();
            return Ok(Lines { name, reader, line: 0, read: 0, bytes: None });
        }
        let (file, bytes) = open(self.input)?;
        let name = self.input.display().to_string();
        Ok(Lines {
            name,
            reader: Box::new(BufReader::new(file)),
            line: 0,
            read: 0,
            bytes: Some(bytes),
        })
    }
}

/// A file of rows, and its size in bytes.
///
/// # Errors
/// [`CommandError::Run`], or [`CommandError::Folder`] for a folder.
pub fn open(path: &Path) -> Result<(File, u64), CommandError> {
    let failed = |source| RunError::Read { path: path.to_owned(), source };
    let file = match open_input(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            return Err(CommandError::Folder { path: path.to_owned() });
        }
        opened => opened.map_err(failed)?,
    };
    let bytes = file.metadata().map_err(failed)?.len();
    Ok((file, bytes))
}

/// A row and the number of its line.
type Numbered<T> = (usize, T);

/// The input, line by line.
struct Lines {
    name: String,
    reader: Box<dyn BufRead>,
    line: usize,
    /// Bytes read so far.
    read: u64,
    /// Size of the input in bytes, if known.
    bytes: Option<u64>,
}

impl Lines {
    /// Up to `count` rows. Blank lines do not count.
    fn take<J: Job>(&mut self, count: usize) -> Result<Vec<Numbered<J::Input>>, CommandError> {
        let mut rows = Vec::new();
        let mut bytes = Vec::new();
        while rows.len() < count {
            bytes.clear();
            let read = self.reader.read_until(b'\n', &mut bytes).map_err(|source| {
                CommandError::Input {
                    place: format!("{}, line {}", self.name, self.line + 1),
                    source,
                }
            })?;
            if read == 0 {
                break;
            }
            self.line += 1;
            self.read += read as u64;
            let row = row::<J>(&bytes).map_err(|problem| CommandError::Row {
                source_name: self.name.clone(),
                line: self.line,
                problem: Box::new(problem),
            })?;
            rows.extend(row.map(|row| (self.line, row)));
        }
        Ok(rows)
    }
}

/// The row on a line; `None` on a blank one.
fn row<J: Job>(bytes: &[u8]) -> Result<Option<J::Input>, RowFault> {
    line(bytes).map_err(|error| match error {
        LineError::NotUtf8(error) => error.into(),
        LineError::Json(source) => RowFault::Json { expected: J::FIELDS, source },
    })
}
