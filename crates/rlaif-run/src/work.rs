//! Commands that train nothing: from their run file to their results.

use std::{
    error::Error,
    fmt::Debug,
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
    /// The meaning of `--out`, for messages.
    const OUT: &'static str;
    /// The results that are kept as they come, for messages.
    const KEEPS: &'static str;
    /// The place of the results: a path, or `Option` of one if the command can do without.
    type Out: WorkOut;
    /// The summary of the results.
    type Summary;
    /// The error.
    type Error: Error + From<RunError> + 'static;

    /// Reads the run file, with these overrides of its keys.
    ///
    /// # Errors
    /// [`RunError`].
    fn read(path: &Path, overrides: &[String]) -> Result<Self, RunError> {
        read(path, overrides)
    }

    /// The path of the results in the run file itself.
    fn out(&self) -> Option<&Path> {
        None
    }

    /// Does the work. Paths of caches are relative to `base`. The same call after an interruption
    /// continues from the results in `out`.
    ///
    /// # Errors
    /// Those of the command.
    fn work(&self, base: &Path, out: &Self::Out) -> Result<Self::Summary, Self::Error>;

    /// Does the same, and tells its progress, if the command measures it.
    ///
    /// # Errors
    /// Those of [`Self::work`].
    fn work_shown(
        &self,
        base: &Path,
        out: &Self::Out,
        _progress: &mut dyn FnMut(EvaluateProgress<'_>),
    ) -> Result<Self::Summary, Self::Error> {
        self.work(base, out)
    }
}

/// The place of a command's results.
pub trait WorkOut: Sized + Debug {
    /// The place that the user named. `meaning` is that of `--out`.
    ///
    /// # Errors
    /// [`BadSetting`] if the command needs a place and there is none.
    fn named(out: Option<PathBuf>, meaning: &'static str) -> Result<Self, BadSetting>;

    /// The path, if there is one.
    fn path(&self) -> Option<&Path>;
}

impl WorkOut for PathBuf {
    fn named(out: Option<PathBuf>, meaning: &'static str) -> Result<Self, BadSetting> {
        out.ok_or_else(|| BadSetting::new("--out", "missing", meaning))
    }

    fn path(&self) -> Option<&Path> {
        Some(self)
    }
}

impl WorkOut for Option<PathBuf> {
    fn named(out: Option<PathBuf>, _: &'static str) -> Result<Self, BadSetting> {
        Ok(out)
    }

    fn path(&self) -> Option<&Path> {
        self.as_deref()
    }
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
pub struct OpenWork<W: Work> {
    /// The run file.
    pub config: W,
    /// The file or folder of results.
    pub out: W::Out,
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
        let config = W::read(&self.config, &self.set)?;
        let out = self.out.clone().or_else(|| config.out().map(Path::to_owned));
        let out = W::Out::named(out, W::OUT)?;
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
        self.config.work_shown(&self.base, &self.out, progress)
    }
}
