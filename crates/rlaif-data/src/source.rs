//! Where rows are to be found.

use std::path::{Path, PathBuf};

use crate::error::DataError;

/// One file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// What to call it in errors and provenance.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) revision: Option<String>,
}

impl Input {
    fn local(path: PathBuf) -> Self {
        Self { name: path.display().to_string(), path, revision: None }
    }
}

/// Files to read rows from, in order.
///
/// ```no_run
/// use rlaif_data::Source;
/// let one = Source::file("dialogues.jsonl.gz")?;
/// let many = Source::glob("shards/*.parquet")?;
/// # Ok::<(), rlaif_data::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    inputs: Vec<Input>,
}

impl Source {
    /// One local file.
    ///
    /// # Errors
    /// [`DataError::Io`] when there is no such file, [`DataError::Folder`] when it is a folder.
    pub fn file(path: impl AsRef<Path>) -> Result<Self, DataError> {
        Self::files([path])
    }

    /// Local files, in the order given.
    ///
    /// # Errors
    /// As [`Source::file`], for the first that cannot be read.
    pub fn files(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<Self, DataError> {
        let inputs = paths
            .into_iter()
            .map(|path| {
                let input = Input::local(path.as_ref().to_owned());
                let metadata = std::fs::metadata(&input.path)
                    .map_err(|source| DataError::Io { source_name: input.name.clone(), source })?;
                if metadata.is_dir() {
                    return Err(DataError::Folder { path: input.path });
                }
                Ok(input)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { inputs })
    }

    /// The local files a pattern such as `shards/**/*.jsonl` matches, in alphabetical order.
    ///
    /// # Errors
    /// [`DataError::Pattern`] for a malformed pattern, [`DataError::NoMatch`] when no file
    /// matches, [`DataError::Io`] for a folder that may not be listed.
    pub fn glob(pattern: &str) -> Result<Self, DataError> {
        let entries = glob::glob(pattern)
            .map_err(|source| DataError::Pattern { pattern: pattern.to_owned(), source })?;
        let mut inputs = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| DataError::Io {
                source_name: error.path().display().to_string(),
                source: error.into(),
            })?;
            if path.is_file() {
                inputs.push(Input::local(path));
            }
        }
        if inputs.is_empty() {
            return Err(DataError::NoMatch { pattern: pattern.to_owned() });
        }
        Ok(Self { inputs })
    }

    pub(crate) fn of_inputs(inputs: Vec<Input>) -> Self {
        Self { inputs }
    }

    pub(crate) fn into_inputs(self) -> Vec<Input> {
        self.inputs
    }
}
