//! TensorBoard's event files, written as bytes: a record is length, checksum of the length, a
//! protocol buffer, checksum of that
//! ([record_writer.h](https://github.com/tensorflow/tensorflow/blob/v2.16.1/tensorflow/core/lib/io/record_writer.h)).

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rlaif_core::{MetricError, MetricSink, Metrics};

use crate::error::TrainError;

const PREFIX: &str = "events.out.tfevents.";

/// Scalars for TensorBoard: `tensorboard --logdir RUNS` shows a run folder that holds its file.
///
/// ```
/// use rlaif_core::{MetricSink, Metrics};
/// use rlaif_train::TensorBoard;
/// # let folder = tempfile::tempdir()?;
/// let mut board = TensorBoard::open(folder.path())?;
/// board.record(1, &[("loss", 0.7)].into_iter().collect())?;
/// assert!(board.path().file_name().unwrap().to_string_lossy().starts_with("events.out.tfevents."));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
    end: u64,
}

impl TensorBoard {
    /// Continues the event file of `folder`, or creates one.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn open(folder: &Path) -> Result<Self, TrainError> {
        let error = TrainError::write(folder);
        let mut present = Vec::new();
        for entry in fs::read_dir(folder).map_err(&error)? {
            let entry = entry.map_err(&error)?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                present.push(entry.path());
            }
        }
        present.sort();
        let path = present.into_iter().next().unwrap_or_else(|| {
            let host = rlaif_files::read_text("/proc/sys/kernel/hostname".as_ref(), 1 << 10)
                .unwrap_or_default();
            let host = host.trim();
            let host = if host.is_empty() { "localhost" } else { host };
            folder.join(format!("{PREFIX}{}.{host}", now().as_secs()))
        });
        let error = TrainError::write(&path);
        let mut file = rlaif_files::open_growing(&path).map_err(&error)?;
        let end = file.seek(SeekFrom::End(0)).map_err(&error)?;
        let mut board = Self { path, file, end };
        if end == 0 {
            board.begin()?;
        }
        Ok(board)
    }

    /// The event file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Brings what was written to the disk, and returns where the file ends.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn mark(&mut self) -> Result<u64, TrainError> {
        self.file.sync_data().map_err(TrainError::write(&self.path))?;
        Ok(self.end)
    }

    /// Drops everything written after `mark`; 0 empties the file.
    ///
    /// # Errors
    /// [`TrainError::BadCheckpoint`] if the file is shorter than that, [`TrainError::Write`].
    pub fn cut(&mut self, mark: u64) -> Result<(), TrainError> {
        if mark > self.end {
            return Err(super::jsonl::shorter(&self.path, self.end, mark));
        }
        self.file
            .set_len(mark)
            .and_then(|()| self.file.seek(SeekFrom::Start(mark)))
            .map_err(TrainError::write(&self.path))?;
        self.end = mark;
        if mark == 0 { self.begin() } else { Ok(()) }
    }

    fn begin(&mut self) -> Result<(), TrainError> {
        let mut event = Vec::new();
        double(&mut event, 1, now().as_secs_f64());
        bytes(&mut event, 3, b"brain.Event:2");
        self.append(&event)
    }

    fn append(&mut self, event: &[u8]) -> Result<(), TrainError> {
        let length = (event.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(event.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc(&length).to_le_bytes());
        record.extend_from_slice(event);
        record.extend_from_slice(&masked_crc(event).to_le_bytes());
        self.file.write_all(&record).map_err(TrainError::write(&self.path))?;
        self.end += record.len() as u64;
        Ok(())
    }
}

impl MetricSink for TensorBoard {
    fn record(&mut self, step: u64, metrics: &Metrics) -> Result<(), MetricError> {
        let mut summary = Vec::new();
        for (name, number) in metrics.iter() {
            // Summary.Value: tag = 1, simple_value = 2.
            let mut value = Vec::new();
            bytes(&mut value, 1, name.as_bytes());
            float(&mut value, 2, number as f32);
            bytes(&mut summary, 1, &value);
        }
        // Event: wall_time = 1, step = 2, summary = 5.
        let mut event = Vec::new();
        double(&mut event, 1, now().as_secs_f64());
        tag(&mut event, 2, 0);
        varint(&mut event, step);
        bytes(&mut event, 5, &summary);
        let sink = self.path.display().to_string();
        self.append(&event).map_err(|source| MetricError::new(sink, source))
    }

    fn flush(&mut self) -> Result<(), MetricError> {
        let sink = self.path.display().to_string();
        self.mark().map(drop).map_err(|source| MetricError::new(sink, source))
    }
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A field's number and wire type: 0 varint, 1 eight bytes, 2 a length and bytes, 5 four bytes.
fn tag(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    tag(out, field, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn float(out: &mut Vec<u8>, field: u64, value: f32) {
    tag(out, field, 5);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    tag(out, field, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// CRC-32C, turned and offset so that a checksum of data that hold checksums is not degenerate.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: an event is some hundred bytes.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        // RFC 3720, B.4, and the catalogue's check value.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn an_event_is_the_bytes_that_tensorboard_writes() {
        // tensorboard 2.21: Event(wall_time=2.0, step=300, summary=Summary(value=[
        //     Summary.Value(tag="loss", simple_value=0.5)])).SerializeToString().hex()
        let want = "09000000000000004010ac022a0d0a0b0a046c6f7373150000003f";
        let mut value = Vec::new();
        bytes(&mut value, 1, b"loss");
        float(&mut value, 2, 0.5);
        let mut summary = Vec::new();
        bytes(&mut summary, 1, &value);
        let mut event = Vec::new();
        double(&mut event, 1, 2.);
        tag(&mut event, 2, 0);
        varint(&mut event, 300);
        bytes(&mut event, 5, &summary);
        let hex: String = event.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, want);
    }
}
