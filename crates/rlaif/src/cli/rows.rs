//! Reads JSON Lines and writes JSON Lines in the same order; rows are batched by length in between.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use rlaif_core::{
    check_finite,
    python_json::{LineError, line},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    error::{CliError, RowProblem},
    print::unwritable,
    progress::bar,
};

/// The input rows, and the batch size.
#[derive(Debug, Args)]
pub(crate) struct RowArguments {
    /// JSON Lines; `-` reads standard input.
    #[arg(long)]
    input: PathBuf,
    /// Rows per batch.
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
}

/// Number of batches read ahead: enough to group rows of similar length.
const WINDOW: usize = 64;

/// A command's computation on rows.
pub(crate) trait Job {
    /// A row of the input.
    type Input: DeserializeOwned;
    /// A row prepared for the computation.
    type Prepared;
    /// A row of the output.
    type Output: Serialize;
    /// The fields of a row, for error messages.
    const FIELDS: &'static str;

    /// Prepares rows; the result has one entry for each.
    fn prepare(&self, rows: Vec<Self::Input>) -> Vec<Result<Self::Prepared, RowProblem>>;
    /// The model, for error messages.
    fn model(&self) -> &str;
    /// Length of a row in tokens: rows of similar length are computed together.
    fn length(row: &Self::Prepared) -> usize;
    /// Number of rows that [`Job::compute`] takes at a time.
    fn together(&self, batch_size: usize) -> usize {
        batch_size
    }
    /// Computes a batch, in order.
    fn compute(&self, rows: &[&Self::Prepared]) -> Result<Vec<Self::Output>, CliError>;
}

impl RowArguments {
    pub(crate) fn new(input: PathBuf, batch_size: usize) -> Self {
        Self { input, batch_size }
    }

    /// Runs a job over the input and writes to standard output.
    pub(crate) fn run<J: Job>(&self, job: &J) -> Result<(), CliError> {
        if self.batch_size == 0 {
            return Err(CliError::Flag {
                flag: "batch-size",
                found: "0".to_owned(),
                expected: "at least 1",
            });
        }
        let mut lines = self.open()?;
        let mut output = BufWriter::new(io::stdout().lock());
        let progress = bar(lines.bytes, "{bar:40} {percent:>3} %  {elapsed} elapsed, {eta} left");
        loop {
            let before = lines.read;
            let rows = lines.take::<J>(self.batch_size.saturating_mul(WINDOW))?;
            if rows.is_empty() {
                break;
            }
            for (line, row) in self.window(job, rows, &lines.name)? {
                if let Err(source) = check_finite(&row) {
                    // Results computed before an error are written.
                    output.flush().map_err(unwritable)?;
                    let (source_name, model) = (lines.name, job.model().to_owned());
                    return Err(CliError::NotFinite { source_name, line, model, source });
                }
                serde_json::to_writer(&mut output, &row).map_err(|e| unwritable(e.into()))?;
                output.write_all(b"\n").map_err(unwritable)?;
            }
            output.flush().map_err(unwritable)?;
            progress.inc(lines.read - before);
        }
        progress.finish_and_clear();
        Ok(())
    }

    /// Computes the rows of one window in batches of similar length, and returns them in order, with
    /// the numbers of their lines.
    fn window<J: Job>(
        &self,
        job: &J,
        rows: Vec<Numbered<J::Input>>,
        source_name: &str,
    ) -> Result<Vec<Numbered<J::Output>>, CliError> {
        let (lines, rows): (Vec<usize>, Vec<J::Input>) = rows.into_iter().unzip();
        let prepared = job.prepare(rows).into_iter().zip(&lines).map(|(row, &line)| {
            row.map_err(|problem| CliError::Row {
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
            done.extend(batch.iter().copied().zip(job.compute(&rows)?));
        }
        done.sort_by_key(|(i, _)| *i);
        Ok(done.into_iter().map(|(i, row)| (lines[i], row)).collect())
    }

    fn open(&self) -> Result<Lines, CliError> {
        if self.input == Path::new("-") {
            let reader = Box::new(io::stdin().lock());
            let name = "standard input".to_owned();
            return Ok(Lines { name, reader, line: 0, read: 0, bytes: None });
        }
        let (file, bytes) = open(&self.input)?;
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
pub(crate) fn open(path: &Path) -> Result<(File, u64), CliError> {
    let failed = |source| CliError::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    // A folder can be opened, but not read.
    if about.is_dir() {
        return Err(CliError::Folder { path: path.to_owned() });
    }
    Ok((file, about.len()))
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
    fn take<J: Job>(&mut self, count: usize) -> Result<Vec<Numbered<J::Input>>, CliError> {
        let mut rows = Vec::new();
        let mut bytes = Vec::new();
        while rows.len() < count {
            bytes.clear();
            let read = self.reader.read_until(b'\n', &mut bytes).map_err(|source| {
                CliError::Io { what: format!("{}, line {}", self.name, self.line + 1), source }
            })?;
            if read == 0 {
                break;
            }
            self.line += 1;
            self.read += read as u64;
            let row = row::<J>(&bytes).map_err(|problem| CliError::Row {
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
fn row<J: Job>(bytes: &[u8]) -> Result<Option<J::Input>, RowProblem> {
    line(bytes).map_err(|error| match error {
        LineError::NotUtf8(error) => error.into(),
        LineError::Json(source) => RowProblem::Json { expected: J::FIELDS, source },
    })
}
