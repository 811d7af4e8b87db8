//! The files of a command whose results cost money: OUT, and beside it OUT.unordered and OUT.missing.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use crate::{error::RunError, journal::UNORDERED, rewards::kept_beside};

/// The end of the name of the file of results that did not come.
const MISSING: &str = ".missing";

/// The file of results, which does not exist yet.
pub(crate) struct ResultFile<'a> {
    out: &'a Path,
}

impl<'a> ResultFile<'a> {
    /// # Errors
    /// [`RunError::Verdicts`] for a file that exists.
    pub(crate) fn new(out: &'a Path) -> Result<Self, RunError> {
        if !out.exists() {
            return Ok(Self { out });
        }
        let problem = "is there already; name another file, or move it away".to_owned();
        Err(RunError::Verdicts { path: out.to_owned(), problem })
    }

    /// The file that results are in until the last one has come.
    pub(crate) fn journal(&self) -> PathBuf {
        rlaif_files::sibling(self.out, UNORDERED)
    }

    /// Writes the results, and those that did not come with their reasons. The journal goes if
    /// nothing is missing; otherwise the same command can ask again beside the answers that were
    /// paid for.
    ///
    /// # Errors
    /// [`RunError::Write`].
    pub(crate) fn write(
        &self,
        rows: impl IntoIterator<Item = impl Serialize>,
        missing: &[Value],
    ) -> Result<(), RunError> {
        // Before the rows: a file of rows tells that the command has ended.
        write_missing(self.out, missing)?;
        write_rows(self.out, rows)?;
        match missing {
            [] => self.remove_journal(),
            _ => Ok(()),
        }
    }

    /// Writes other rows beside the results, before them: `ending` takes the place of `jsonl` in the name.
    ///
    /// # Errors
    /// [`RunError::Write`].
    pub(crate) fn write_beside(
        &self,
        ending: &str,
        rows: impl IntoIterator<Item = impl Serialize>,
    ) -> Result<(), RunError> {
        write_rows(&self.out.with_extension(ending), rows)
    }

    /// Writes rows that [`ResultFile::write_beside`] has no results for, with their reasons.
    ///
    /// # Errors
    /// [`RunError::Write`].
    pub(crate) fn write_missing_beside(
        &self,
        ending: &str,
        missing: &[Value],
    ) -> Result<(), RunError> {
        write_missing(&self.out.with_extension(ending), missing)
    }

    /// Removes the journal, and the verdicts kept beside it.
    ///
    /// # Errors
    /// [`RunError::Write`].
    pub(crate) fn remove_journal(&self) -> Result<(), RunError> {
        let journal = self.journal();
        remove(&kept_beside(&journal))?;
        remove(&journal)
    }
}

/// Removes a file, if it exists.
fn remove(path: &Path) -> Result<(), RunError> {
    if !path.exists() {
        return Ok(());
    }
    fs::remove_file(path).map_err(|source| RunError::Write { path: path.to_owned(), source })
}

/// Writes the results that did not come beside a file of results, or removes those of an earlier run.
fn write_missing(of: &Path, missing: &[Value]) -> Result<(), RunError> {
    let path = rlaif_files::sibling(of, MISSING);
    match missing {
        [] => remove(&path),
        missing => write_rows(&path, missing),
    }
}

/// Writes rows as JSON Lines.
fn write_rows(path: &Path, rows: impl IntoIterator<Item = impl Serialize>) -> Result<(), RunError> {
    let failed = |source| RunError::Write { path: path.to_owned(), source };
    rlaif_files::write_aside(path, failed, |writer| {
        for row in rows {
            serde_json::to_writer(&mut *writer, &row).map_err(|error| failed(error.into()))?;
            writer.write_all(b"\n").map_err(failed)?;
        }
        Ok(())
    })
}
