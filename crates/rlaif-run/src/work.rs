//! Commands that train nothing: from their run file to their results.

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use rlaif_core::BadSetting;

use crate::{
    error::RunError,
    evaluate::EvaluateProgress,
    file::{RunFile, read},
};

/// A run file of a command that trains nothing: it asks models, and keeps their answers.
pub trait Work: RunFile {
    /// The meaning of `--out`, for a command that needs it.
    const OUT: Option<&'static str>;
    /// The results that are kept as they come, for messages.
    const KEEPS: &'static str;
    /// The summary of the results.
    type Summary;
    /// The error.
    type Error: Error + From<RunError> + 'static;

    /// The path of the results in the run file itself.
    fn out(&self) -> Option<&Path> {
        None
    }

    /// Does the work. Paths of caches are relative to `base`. The same call after an interruption
    /// continues from the results in `out`.
    ///
    /// # Errors
    /// Those of the command.
    fn work(
        &self,
        base: &Path,
        out: Option<&Path>,
        progress: &mut dyn FnMut(EvaluateProgress<'_>),
    ) -> Result<Self::Summary, Self::Error>;
}

/// A user's request of such a command.
#[derive(Debug, Clone, Default)]
pub struct WorkRequest {
    /// The run file.
    pub config: PathBuf,
    /// The file or folder of results; it overrides that of the run file.
    pub out: Option<PathBuf>,
    /// `a.b=v`: overrides of the file's keys; the value is TOML or a bare string.
    pub set: Vec<String>,
}

/// Work whose run file has been read.
#[derive(Debug)]
pub struct OpenWork<W> {
    /// The run file.
    pub config: W,
    /// The file or folder of results.
    pub out: Option<PathBuf>,
    base: PathBuf,
}

impl WorkRequest {
    /// Reads the run file, without writing anything.
    ///
    /// # Errors
    /// [`RunError`] for a file that cannot be read or lacks a key; [`RunError::Setting`] without a place
    /// for the results.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let config = folder.path().join("exam.toml");
    /// use rlaif_run::{ExamFile, WorkRequest};
    /// std::fs::write(&config, "[data]\nfile = 'pairs.jsonl'\n")?;
    /// let request = WorkRequest { config, set: vec!["data.take=3".into()], ..WorkRequest::default() };
    /// assert_eq!(request.open::<ExamFile>()?.config.data.take, Some(3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open<W: Work>(&self) -> Result<OpenWork<W>, RunError> {
        let config: W = read(&self.config, &self.set)?;
        let out = self.out.clone().or_else(|| config.out().map(Path::to_owned));
        if let (None, Some(expected)) = (&out, W::OUT) {
            return Err(BadSetting::new("--out", "missing", expected).into());
        }
        let base = self.config.parent().unwrap_or(Path::new("")).to_owned();
        Ok(OpenWork { config, out, base })
    }
}

impl<W: Work> OpenWork<W> {
    /// Does the work.
    ///
    /// # Errors
    /// Those of [`Work::work`].
    pub fn run(
        &self,
        progress: &mut dyn FnMut(EvaluateProgress<'_>),
    ) -> Result<W::Summary, W::Error> {
        self.config.work(&self.base, self.out.as_deref(), progress)
    }
}
