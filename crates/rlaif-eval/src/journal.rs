//! Values measured so far, kept on disk.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use rlaif_core::{FileAction, Sample};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{EvalError, MetricInfo};

/// One line of the file.
#[derive(Serialize, Deserialize)]
struct Entry {
    metric: String,
    key: String,
    value: f64,
}

/// A file of one JSON object for each value, appended to.
pub(crate) struct Journal {
    file: rlaif_files::Journal,
    known: HashMap<String, f64>,
}

impl Journal {
    /// Opens or creates it. A last line that was cut off by a crash is removed.
    pub(crate) fn open(path: &Path) -> Result<Self, EvalError> {
        let opened = rlaif_files::Journal::open(path);
        let (file, lines) = opened.map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => EvalError::Busy { path: path.to_owned() },
            _ => EvalError::Io { action: FileAction::Open, path: path.to_owned(), source },
        })?;
        let mut known = HashMap::new();
        for (number, line) in lines.numbered() {
            let entry: Entry =
                serde_json::from_slice(line).map_err(|source| EvalError::Format {
                    path: path.to_owned(),
                    line: number,
                    expected: "`metric`, `key` and `value` of one measured response",
                    source,
                })?;
            known.insert(entry.key, entry.value);
        }
        Ok(Self { file, known })
    }

    pub(crate) fn value(&self, info: &MetricInfo, sample: &Sample) -> Option<f64> {
        self.known.get(&key(info, sample)).copied()
    }

    pub(crate) fn append<'a>(
        &mut self,
        info: &MetricInfo,
        measured: impl Iterator<Item = (&'a Sample, Option<f64>)>,
    ) -> Result<(), EvalError> {
        let entries = measured.filter_map(|(sample, value)| {
            Some(Entry { metric: info.name.clone(), key: key(info, sample), value: value? })
        });
        self.file.append(entries).map_err(|source| EvalError::Io {
            action: FileAction::Write,
            path: self.file.path().to_owned(),
            source,
        })
    }
}

/// The inputs that the value depends on, as far as they are known here.
fn key(info: &MetricInfo, sample: &Sample) -> String {
    let record = &sample.record;
    // Sorted, so that the key does not depend on the order of columns in the file.
    let mut metadata = serde_json::Value::Object(record.metadata.clone());
    metadata.sort_all_objects();
    let parts = (info, &record.prompt, &sample.response.text, &record.reference, &metadata);
    let messages = (&record.messages, &sample.response.messages);
    // Without messages, the key is that of earlier versions.
    let text = match messages {
        (asked, said) if asked.is_empty() && said.is_empty() => serde_json::to_vec(&parts),
        messages => serde_json::to_vec(&(parts, messages)),
    };
    let text = text.expect("text, numbers and JSON are JSON");
    let hash = Sha256::digest(&text);
    rlaif_files::hex(&hash[..16])
}
