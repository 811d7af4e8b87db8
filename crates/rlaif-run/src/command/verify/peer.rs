//! The same model in transformers, run by a Python that the user names.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use rlaif_lm::LmSpec;
use rlaif_models::ModelFiles;
use serde::Deserialize;
use serde_json::json;

use super::check::dtype;
use crate::command::error::CommandError;

/// Reads a task from standard input, and writes one JSON object as the last line.
const SCRIPT: &str = include_str!("peer.py");

/// Python, and the model's files.
pub(super) struct Peer<'a> {
    pub(super) python: &'a Path,
    pub(super) files: &'a ModelFiles,
}

/// Kinds of models.
#[derive(Debug, Clone, Copy)]
pub(super) enum PeerTask {
    Causal,
    Seq2Seq,
    Classifier,
}

/// The answer of the script.
#[derive(Debug, Deserialize)]
struct Answer {
    version: String,
    rows: Vec<Vec<f32>>,
}

impl Peer<'_> {
    /// The version of transformers, and for each row the log-probabilities of its response; for a
    /// classifier, its logits.
    pub(super) fn ask(
        &self,
        task: PeerTask,
        spec: &LmSpec,
        rows: &[(Vec<u32>, Vec<u32>)],
    ) -> Result<(String, Vec<Vec<f32>>), CommandError> {
        let kind = match task {
            PeerTask::Causal => "causal",
            PeerTask::Seq2Seq => "seq2seq",
            PeerTask::Classifier => "classifier",
        };
        let task = json!({
            "kind": kind,
            "base": self.files.folder,
            "adapter": self.files.adapter,
            "dtype": dtype(spec.kind),
            "vocabulary": spec.vocab_size,
            "decoder_start": spec.decoder_start_id,
            "rows": rows,
        });
        let failed =
            |problem: String| CommandError::Peer { python: self.python.to_owned(), problem };
        let mut child = Command::new(self.python)
            .args(["-c", SCRIPT])
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("cannot be run: {error}")))?;
        if let Some(mut input) = child.stdin.take() {
            // A Python that ends early closes its input; its own message says why.
            let _ = input.write_all(task.to_string().as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            let last =
                message.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            return Err(failed(format!("{}: {}", output.status, rlaif_core::printable(last))));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().unwrap_or_default();
        let answer: Answer = serde_json::from_str(line)
            .map_err(|error| failed(format!("its answer cannot be read: {error}")))?;
        Ok((format!("transformers {}", answer.version), answer.rows))
    }
}
