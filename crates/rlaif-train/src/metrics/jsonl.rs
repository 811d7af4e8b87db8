//! JSON Lines: one object per step, and any other rows.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use rlaif_core::{MetricError, MetricSink, Metrics};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::error::TrainError;

/// A file of JSON Lines that a resumed run cuts back to where its checkpoint was.
///
/// Each row is one write, so that a reader never sees half of one.
///
/// ```
/// use rlaif_train::JsonLines;
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("samples.jsonl");
/// let mut rows = JsonLines::open(&path)?;
/// rows.append(&serde_json::json!({ "response": "Two." }))?;
/// let mark = rows.mark()?;
/// rows.append(&serde_json::json!({ "response": "Four." }))?;
/// rows.cut(mark)?;
/// assert_eq!(std::fs::read_to_string(&path)?, "{\"response\":\"Two.\"}\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
    end: u64,
}

impl JsonLines {
    /// Opens a file to append to; it is made if it is not there.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let error = TrainError::write(path);
        let mut file = rlaif_files::open_growing(path).map_err(&error)?;
        let end = file.seek(SeekFrom::End(0)).map_err(&error)?;
        Ok(Self { path: path.to_owned(), file, end })
    }

    /// Writes a row.
    ///
    /// # Errors
    /// [`TrainError::Write`], [`TrainError::Json`] for a value that cannot be JSON.
    pub fn append(&mut self, row: &impl Serialize) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(row)
            .map_err(|source| TrainError::Json { path: self.path.clone(), source })?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(TrainError::write(&self.path))?;
        self.end += line.len() as u64;
        Ok(())
    }

    /// Brings what was written to the disk, and returns where the file ends.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn mark(&mut self) -> Result<u64, TrainError> {
        self.file.sync_data().map_err(TrainError::write(&self.path))?;
        Ok(self.end)
    }

    /// Drops what was written after `mark`.
    ///
    /// # Errors
    /// [`TrainError::BadCheckpoint`] if the file is shorter than that, [`TrainError::Write`].
    pub fn cut(&mut self, mark: u64) -> Result<(), TrainError> {
        if mark > self.end {
            return Err(shorter(&self.path, self.end, mark));
        }
        self.file
            .set_len(mark)
            .and_then(|()| self.file.seek(SeekFrom::Start(mark)))
            .map_err(TrainError::write(&self.path))?;
        self.end = mark;
        Ok(())
    }
}

pub(super) fn shorter(path: &Path, found: u64, mark: u64) -> TrainError {
    TrainError::BadCheckpoint {
        path: path.to_owned(),
        problem: format!(
            "has {found} bytes, but had {mark} when the checkpoint was written; restore it, or \
             move it away with the checkpoints that are newer than it"
        ),
    }
}

/// `metrics.jsonl`: `{"step": 1, "loss": 0.7, ...}`. JSON has no number that is not finite: such a
/// metric is the text `"NaN"`, `"Infinity"` or `"-Infinity"`, never `null`.
#[derive(Debug)]
pub struct JsonlMetrics(JsonLines);

impl JsonlMetrics {
    /// Writes to these lines.
    pub fn new(lines: JsonLines) -> Self {
        Self(lines)
    }

    /// The lines themselves.
    pub fn lines(&mut self) -> &mut JsonLines {
        &mut self.0
    }
}

impl MetricSink for JsonlMetrics {
    fn record(&mut self, step: u64, metrics: &Metrics) -> Result<(), MetricError> {
        let sink = self.0.path.display().to_string();
        self.0.append(&Row { step, metrics }).map_err(|source| MetricError::new(sink, source))
    }

    fn flush(&mut self) -> Result<(), MetricError> {
        let sink = self.0.path.display().to_string();
        self.0.mark().map(drop).map_err(|source| MetricError::new(sink, source))
    }
}

struct Row<'a> {
    step: u64,
    metrics: &'a Metrics,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.metrics.len() + 1))?;
        map.serialize_entry("step", &self.step)?;
        for (name, value) in self.metrics.iter() {
            match word(value) {
                Some(word) => map.serialize_entry(name, word)?,
                None => map.serialize_entry(name, &value)?,
            }
        }
        map.end()
    }
}

/// The text for a number that is not finite.
fn word(value: f64) -> Option<&'static str> {
    match value {
        value if value.is_finite() => None,
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => Some("NaN"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Python's `float` is the oracle: it reads each of these words as the number it stands for, as
    /// Rust's parser does.
    #[test]
    fn a_metric_that_is_not_finite_is_a_word_and_never_null() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut sink = JsonlMetrics::new(JsonLines::open(&path).unwrap());
        let numbers = [("a", f64::NAN), ("b", f64::INFINITY), ("c", f64::NEG_INFINITY), ("d", 0.5)];
        sink.record(3, &numbers.into_iter().collect()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"step\":3,\"a\":\"NaN\",\"b\":\"Infinity\",\"c\":\"-Infinity\",\"d\":0.5}\n"
        );
        for (_, number) in numbers {
            if let Some(word) = word(number) {
                assert_eq!(word.parse::<f64>().unwrap().to_bits(), number.to_bits());
            }
        }
    }
}
