//! Sources of rows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rlaif_files::{is_open_already, kind_of_file};
use serde_json::json;

use crate::builtin::{self, Part};
use crate::error::DataError;
use crate::prompt::PromptTemplate;

/// One file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// The name in errors and provenance.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) revision: Option<String>,
    /// The content, if it is not on disk.
    pub(crate) content: Option<Arc<[u8]>>,
}

impl Input {
    fn local(path: PathBuf) -> Self {
        Self { name: path.display().to_string(), path, revision: None, content: None }
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
    /// [`DataError::Io`] when there is no such file, [`DataError::Folder`] when it is a folder,
    /// [`DataError::NotAFile`] when it is a named pipe or a device other than standard input.
    pub fn file(path: impl AsRef<Path>) -> Result<Self, DataError> {
        Self::files([path])
    }

    /// Local files, in the order given.
    ///
    /// # Errors
    /// As [`Source::file`], for the first file that cannot be read.
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
                if !metadata.is_file() && !is_open_already(&input.path) {
                    // Reading would wait for a writer, possibly for ever.
                    let what = kind_of_file(metadata.file_type());
                    return Err(DataError::NotAFile { path: input.path, what });
                }
                Ok(input)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { inputs })
    }

    /// The local files that match a pattern such as `shards/**/*.jsonl`, in alphabetical order.
    ///
    /// # Errors
    /// [`DataError::Pattern`] for a malformed pattern, [`DataError::NoMatch`] when no file matches,
    /// [`DataError::Io`] for a folder that cannot be listed.
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

    /// A part of the built-in corpus as rows: `prompt`, which asks for a summary of a dialogue, `response`, the
    /// reference summary, `id` and `topic`. It is not on disk.
    ///
    /// ```
    /// use rlaif_data::{Import, Reader, Source, builtin::Part};
    /// let source = Source::builtin(Part::HeldOut);
    /// let prompts = Import::find(&source)?.prompts(Reader::new(source))?;
    /// assert!(prompts.records()[0].prompt.readable().contains("Summarize the following conversation."));
    /// # Ok::<(), rlaif_data::DataError>(())
    /// ```
    pub fn builtin(part: Part) -> Self {
        let template = PromptTemplate::summarise();
        let row = |record: &builtin::BuiltinDialogue| {
            let row = json!({
                "id": record.id,
                "prompt": template.fill(&record.dialogue),
                "response": record.summary,
                "topic": record.topic,
            });
            format!("{row}\n")
        };
        let text: String = builtin::dialogues(part).records().iter().map(row).collect();
        let name = part.name().to_owned();
        let content = Some(text.into_bytes().into());
        Self { inputs: vec![Input { path: PathBuf::from(&name), name, revision: None, content }] }
    }

    /// The paths of the files on disk.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.inputs.iter().filter(|input| input.content.is_none()).map(|input| &*input.path)
    }

    /// The name of the first file.
    pub(crate) fn first_name(&self) -> String {
        self.inputs.first().map(|input| input.name.clone()).unwrap_or_default()
    }

    pub(crate) fn of_inputs(inputs: Vec<Input>) -> Self {
        Self { inputs }
    }

    pub(crate) fn into_inputs(self) -> Vec<Input> {
        self.inputs
    }
}
