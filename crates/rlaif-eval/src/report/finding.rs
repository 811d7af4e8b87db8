//! Symptoms that the trainer noticed, read from its run's folder.

use std::path::Path;

use rlaif_core::Finding;

use crate::{EvalError, files};

/// Reads what a trainer noticed, a list that may be empty; the `findings.json` of a run's folder.
///
/// # Errors
/// [`EvalError::Io`], [`EvalError::Format`].
pub fn read_findings(path: &Path) -> Result<Vec<Finding>, EvalError> {
    files::read_json(
        path,
        "a list of findings, each with `step`, `symptom`, `seen`, `cause` and `advice`",
    )
}
