//! Errors of commands that are set by flags.

use std::{io, path::PathBuf};

use rlaif_core::{BadSetting, CodecError, Fault, NotFinite};
use rlaif_lm::LmError;
use rlaif_models::ConvertError;
use rlaif_text::TextError;

use crate::error::RunError;

/// Reasons why a stream of rows, or a bench, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// A row of the input that the command cannot read.
    #[error("{source_name}, line {line}: {problem}")]
    Row {
        /// File, or `standard input`.
        source_name: String,
        /// The line, from 1.
        line: usize,
        /// The fault, and the expected content.
        problem: Box<RowFault>,
    },
    /// A row whose result is NaN or infinite.
    #[error(
        "{source_name}, line {line}: the result of {model}: {source}; its weights contain such \
         numbers, or its activations overflow (f16 above all: try `--dtype bf16` or `--dtype \
         f32`)"
    )]
    NotFinite {
        /// File, or `standard input`.
        source_name: String,
        /// The line, from 1.
        line: usize,
        /// The model as the user named it.
        model: String,
        /// The number.
        #[source]
        source: NotFinite,
    },
    /// An error of a model, with its name.
    #[error("{model}: {source}")]
    OfModel {
        /// The model as the user named it.
        model: String,
        /// The error.
        #[source]
        source: LmError,
    },
    /// A measurement that is NaN or infinite.
    #[error("the measurement {source}; measure more than this")]
    Unmeasured {
        /// The number.
        #[source]
        source: NotFinite,
    },
    /// A folder where rows are expected.
    #[error("{} is a folder; name a file of rows in it", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// Reading failed.
    #[error("{place}: {source}")]
    Input {
        /// File and line.
        place: String,
        /// The system's message.
        #[source]
        source: io::Error,
    },
    /// A Python that cannot compute what is compared.
    #[error(
        "{}: {problem}; name a Python that has torch and transformers (and peft for an adapter)",
        .python.display()
    )]
    Peer {
        /// The interpreter.
        python: PathBuf,
        /// The message of Python or of the system.
        problem: String,
    },
    /// Checks of `rlaif verify` that do not hold.
    #[error(
        "{model}: {} not hold: {}; its numbers on this machine depend on more than its input",
        if failed.len() == 1 { "a check does".to_owned() } else { format!("{} checks do", failed.len()) },
        failed.join(", ")
    )]
    NotExact {
        /// The model as the user named it.
        model: String,
        /// Names of the checks.
        failed: Vec<&'static str>,
    },
    /// A folder without a report.
    #[error(
        "{} holds no report: there is no report.json in it; `rlaif eval --out` and the examples \
         write one", .folder.display()
    )]
    NoReport {
        /// The folder.
        folder: PathBuf,
    },
    /// The same run given twice.
    #[error("{} is given twice; name each run once", .folder.display())]
    SameRun {
        /// The folder.
        folder: PathBuf,
    },
    /// The output cannot be written.
    #[error("the output: {0}")]
    Output(#[source] io::Error),
    /// A setting of the command out of range. `field` is its flag, with underscores.
    #[error(transparent)]
    Setting(BadSetting),
    /// A model, a tokenizer or a file.
    #[error(transparent)]
    Run(RunError),
    /// Weights that cannot be read as a classifier.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A language model.
    #[error(transparent)]
    Lm(#[from] LmError),
}

impl CommandError {
    /// The same error with its row of the batch named as the user knows it.
    pub(super) fn in_row(self, place: impl FnOnce(usize) -> String) -> Self {
        match self {
            Self::Lm(error) => Self::Lm(error.in_row(place)),
            Self::OfModel { model, source } => {
                Self::OfModel { model, source: source.in_row(place) }
            }
            other => other,
        }
    }

    /// The refusal of a flag's value.
    pub(super) fn setting(
        flag: &'static str,
        found: impl std::fmt::Display,
        expected: &'static str,
    ) -> Self {
        Self::Setting(BadSetting::new(flag, found, expected))
    }
}

/// Refuses a flag that is 0.
pub(super) fn at_least_one(flags: &[(&'static str, usize)]) -> Result<(), CommandError> {
    match flags.iter().find(|(_, value)| *value == 0) {
        Some((flag, _)) => Err(CommandError::setting(flag, 0, "at least 1")),
        None => Ok(()),
    }
}

impl<E: Into<RunError>> From<E> for CommandError {
    fn from(error: E) -> Self {
        Self::Run(error.into())
    }
}

/// Fault of one row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowFault {
    /// A line that is not a row.
    #[error(
        "not a JSON object of the expected fields ({expected}): {source}{}",
        rlaif_core::python_json::remedy(source)
    )]
    Json {
        /// The fields of a row.
        expected: &'static str,
        /// The parser's message.
        #[source]
        source: serde_json::Error,
    },
    /// A line in another encoding.
    #[error("{0}; convert the file to UTF-8")]
    NotUtf8(#[from] std::str::Utf8Error),
    /// Fields that do not belong together.
    #[error("expected either {expected}")]
    Fields {
        /// The fields of a row.
        expected: &'static str,
    },
    /// Token ids that the model refuses.
    #[error("{0}")]
    Lm(#[source] LmError),
    /// A text that the tokenizer refuses.
    #[error("{0}")]
    Text(#[source] TextError),
    /// A conversation that the chat template refuses, or a text that the tokenizer refuses.
    #[error("{0}")]
    Codec(#[source] CodecError),
    /// A text for a reward model.
    #[error("{0}")]
    Run(#[source] RunError),
    /// A prompt without room for its response.
    #[error(
        "the prompt has {prompt} tokens and {key} is {new}, together {} tokens, but the model's \
         context is {context}; {}",
        prompt + new,
        room(*prompt, *context, key)
    )]
    NoRoom {
        /// Tokens of the prompt.
        prompt: usize,
        /// The most tokens of the response.
        new: usize,
        /// The setting of that limit.
        key: &'static str,
        /// The model's context in tokens.
        context: usize,
    },
    /// A row of text for a model without a tokenizer.
    #[error("{problem}; the model folder has no tokenizer to encode text with ({reason})")]
    NoTokenizer {
        /// The need for a tokenizer.
        problem: &'static str,
        /// The reason why there is none.
        reason: String,
    },
}

/// The remedy if prompt and response do not fit the context.
fn room(prompt: usize, context: usize, key: &str) -> String {
    match context.saturating_sub(prompt) {
        0 => "shorten the prompt".to_owned(),
        room => format!("set {key} to {room} or less, or shorten the prompt"),
    }
}

impl Fault for CommandError {
    fn is_users(&self) -> bool {
        match self {
            Self::Row { problem, .. } => problem.is_users(),
            Self::Folder { .. }
            | Self::Setting(_)
            | Self::Peer { .. }
            | Self::NoReport { .. }
            | Self::SameRun { .. } => true,
            Self::NotFinite { .. }
            | Self::Unmeasured { .. }
            | Self::NotExact { .. }
            | Self::Input { .. }
            | Self::Output(_) => false,
            Self::Lm(error) | Self::OfModel { source: error, .. } => error.is_users(),
            Self::Convert(error) => error.is_users(),
            Self::Run(error) => error.is_users(),
        }
    }
}

impl Fault for RowFault {
    fn is_users(&self) -> bool {
        match self {
            Self::Json { .. }
            | Self::NotUtf8(_)
            | Self::Fields { .. }
            | Self::NoRoom { .. }
            | Self::NoTokenizer { .. } => true,
            Self::Lm(error) => error.is_users(),
            Self::Text(error) => error.is_users(),
            Self::Codec(error) => error.is_users(),
            Self::Run(error) => error.is_users(),
        }
    }
}
