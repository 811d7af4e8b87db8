//! Errors of reward providers.

use std::path::PathBuf;

use rlaif_core::{BadSetting, Fault, is_bad_input_file};
use rlaif_sandbox::SandboxError;

/// Errors of reward providers, on creation and on scoring.
///
/// No variant holds an API key: keys are removed from a server's texts before they get here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// A setting has an invalid value.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// A regular expression is invalid.
    #[error("the pattern `{pattern}` is not a valid regular expression")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Position of the fault.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A judge's template cannot be used.
    #[error("the judge's template {template:?} cannot be used: {problem}")]
    Template {
        /// The template.
        template: String,
        /// The fault found.
        problem: String,
    },
    /// There is no rubric of that name.
    #[error(
        "no rubric is called `{name}`; choose one of {}, or write your own `instructions`, \
         `template` and `scale`",
        .known.join(", ")
    )]
    Rubric {
        /// The name.
        name: String,
        /// The known names.
        known: Vec<&'static str>,
    },
    /// This program has registered no reward of that name.
    #[error("this program has no reward called `{name}`{}", Registered(.name, .known))]
    Own {
        /// The name.
        name: String,
        /// The names that it has registered.
        known: Vec<String>,
    },
    /// A reward that this program has registered cannot be made of its settings.
    #[error("reward `{name}`: {problem}")]
    OwnSettings {
        /// The name.
        name: String,
        /// The fault found.
        problem: String,
    },
    /// A configuration is invalid.
    #[error("{origin}{}: {problem}", Line(*.line))]
    Config {
        /// The file.
        origin: String,
        /// The line, from 1, where it is known.
        line: Option<usize>,
        /// The fault found, without its text: that might be a key.
        problem: String,
    },
    /// The sandbox runs no program.
    #[error(transparent)]
    Sandbox(SandboxError),
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The message of the system or the database.
        #[source]
        source: std::io::Error,
    },
    /// A judge's cache could not be opened, read or written.
    #[cfg(feature = "judge")]
    #[error("{}: {source}", .path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// SQLite's message.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        /// `true` if the user must name another file: the folder does not exist, or the file is not
        /// a database.
        misnamed: bool,
    },
    /// An API key is missing or malformed.
    #[cfg(feature = "judge")]
    #[error("the environment variable `{variable}`, which should hold the API key, {problem}")]
    Key {
        /// The environment variable.
        variable: String,
        /// The fault found.
        problem: &'static str,
    },
    /// The server does not accept the key.
    #[cfg(feature = "judge")]
    #[error(
        "{api} does not accept the key of {key} ({status}: {message}); check that it is the key \
         of this service, has not expired, and was copied completely"
    )]
    Unauthorised {
        /// The service.
        api: String,
        /// Source of the key.
        key: String,
        /// The HTTP status.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// The key is valid, but has no permission for this.
    #[cfg(feature = "judge")]
    #[error(
        "{api} does not let the key of {key} use `{model}` ({status}: {message}); request access \
         to the model, or the permission, where the key was created"
    )]
    Forbidden {
        /// The service.
        api: String,
        /// Source of the key.
        key: String,
        /// The model.
        model: String,
        /// The HTTP status.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// The server has no such API.
    #[cfg(feature = "judge")]
    #[error(
        "there is no {api} at {url} ({status}: {message}); check `base_url`, which ends in /v1 \
         for most servers"
    )]
    NoSuchPath {
        /// The service.
        api: String,
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// The server does not have the model.
    #[cfg(feature = "judge")]
    #[error(
        "{api} at {url} does not know the model `{model}` ({status}: {message}); check `model`, \
         `region` and `base_url`"
    )]
    UnknownModel {
        /// The service.
        api: String,
        /// The address.
        url: String,
        /// The model.
        model: String,
        /// The HTTP status.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// The account's quota or budget is exhausted.
    #[cfg(feature = "judge")]
    #[error(
        "{api}: the account's quota or spend limit is reached ({status}: {message}); waiting does \
         not help, raise the limit there. Answers so far are in the cache, if one is configured"
    )]
    SpendLimit {
        /// The service.
        api: String,
        /// The HTTP status.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// The server refuses every request.
    #[cfg(feature = "judge")]
    #[error(
        "{api} at {url} refuses every request ({status}: {message}); check the address, and \
         follow the message"
    )]
    Refused {
        /// The service.
        api: String,
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// A row of the input is not an exchange.
    #[error(
        "input, line {line}: expected a JSON object with `prompt` and `response`, texts or messages{}",
        rlaif_core::python_json::remedy(source)
    )]
    Row {
        /// The line, from 1.
        line: usize,
        /// The fault found.
        #[source]
        source: serde_json::Error,
    },
    /// A row of the input is not UTF-8.
    #[error("input, line {line}: {source}; convert the file to UTF-8")]
    NotUtf8 {
        /// The line, from 1.
        line: usize,
        /// Position at which the line stops being UTF-8.
        #[source]
        source: std::str::Utf8Error,
    },
    /// The input cannot be read, or the output written.
    #[error("cannot {action}")]
    Stream {
        /// The operation.
        action: &'static str,
        /// The system's message.
        #[source]
        source: std::io::Error,
    },
    /// A model that a configuration names was not found.
    #[cfg(feature = "neural")]
    #[error("the model `{location}` could not be loaded")]
    ModelFolder {
        /// The folder or hub id.
        location: String,
        /// The error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        /// `true` if the user's input is the cause, see [`Fault`].
        users: bool,
    },
    /// A model cannot be read or built.
    #[cfg(feature = "neural")]
    #[error(transparent)]
    Model(#[from] rlaif_models::ModelError),
    /// A classifier cannot be made of an adapter and its base.
    #[cfg(feature = "neural")]
    #[error(transparent)]
    Convert(#[from] rlaif_models::ConvertError),
    /// A tokenizer cannot be read.
    #[cfg(feature = "neural")]
    #[error(transparent)]
    Text(#[from] rlaif_text::TextError),
    /// A tokenizer, or its chat template, fails or is missing.
    #[error(transparent)]
    Codec(#[from] rlaif_core::CodecError),
    /// A model does not support a setting.
    #[cfg(feature = "neural")]
    #[error(transparent)]
    Lm(#[from] rlaif_lm::LmError),
    /// A device is unavailable.
    #[cfg(feature = "neural")]
    #[error(transparent)]
    Torch(#[from] rlaif_torch::TorchError),
    /// A classifier lacks the label.
    #[cfg(feature = "neural")]
    #[error("the classifier {model} needs a `label`: {found}; its labels are {}", Labels(.known))]
    Label {
        /// The classifier.
        model: String,
        /// The choice.
        found: String,
        /// The labels there are, in the order of the logits.
        known: Vec<String>,
    },
    /// Model and tokenizer do not match.
    #[cfg(feature = "neural")]
    #[error(
        "the tokenizer {tokenizer} has ids up to {largest}, but the model's embedding has {rows} \
         rows; they do not belong together"
    )]
    Vocabulary {
        /// The tokenizer.
        tokenizer: String,
        /// The largest id.
        largest: usize,
        /// Rows of the model's embedding.
        rows: i64,
    },
    /// A model that writes failed.
    #[cfg(feature = "judge")]
    #[error("the writer `{writer}` failed: {source}")]
    Writer {
        /// Name of the writer.
        writer: String,
        /// The error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A reward failed as a whole.
    #[error(transparent)]
    Reward(#[from] rlaif_core::RewardError),
}

impl From<SandboxError> for ProviderError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::Setting(error) => Self::Setting(error),
            other => Self::Sandbox(other),
        }
    }
}

impl ProviderError {
    /// Returns the error of a model whose folder is unavailable.
    #[cfg(feature = "neural")]
    pub fn model_folder<E>(location: impl Into<String>, error: E) -> Self
    where
        E: std::error::Error + Fault + Send + Sync + 'static,
    {
        let users = error.is_users();
        Self::ModelFolder { location: location.into(), source: Box::new(error), users }
    }
}

impl Fault for ProviderError {
    fn is_users(&self) -> bool {
        match self {
            Self::Setting(_)
            | Self::Pattern { .. }
            | Self::Template { .. }
            | Self::Rubric { .. }
            | Self::Own { .. }
            | Self::OwnSettings { .. }
            | Self::Config { .. }
            | Self::Row { .. }
            | Self::NotUtf8 { .. } => true,
            Self::Sandbox(error) => error.is_users(),
            Self::File { source, .. } => is_bad_input_file(source),
            Self::Stream { .. } => false,
            #[cfg(feature = "judge")]
            Self::Cache { misnamed, .. } => *misnamed,
            // Keys, names and addresses of services.
            #[cfg(feature = "judge")]
            Self::Key { .. }
            | Self::Unauthorised { .. }
            | Self::Forbidden { .. }
            | Self::UnknownModel { .. }
            | Self::NoSuchPath { .. }
            | Self::Refused { .. } => true,
            #[cfg(feature = "judge")]
            Self::SpendLimit { .. } | Self::Writer { .. } => false,
            #[cfg(feature = "neural")]
            Self::ModelFolder { users, .. } => *users,
            #[cfg(feature = "neural")]
            Self::Model(error) => error.is_users(),
            #[cfg(feature = "neural")]
            Self::Convert(error) => error.is_users(),
            #[cfg(feature = "neural")]
            Self::Text(error) => error.is_users(),
            Self::Codec(error) => error.is_users(),
            #[cfg(feature = "neural")]
            Self::Lm(error) => error.is_users(),
            #[cfg(feature = "neural")]
            Self::Torch(error) => error.is_users(),
            #[cfg(feature = "neural")]
            Self::Label { .. } | Self::Vocabulary { .. } => true,
            Self::Reward(error) => error.is_users(),
        }
    }
}

#[cfg(feature = "judge")]
impl From<rlaif_http::BadSecret> for ProviderError {
    fn from(bad: rlaif_http::BadSecret) -> Self {
        let rlaif_http::BadSecret { origin, problem } = bad;
        Self::Key { variable: origin, problem }
    }
}

struct Line(Option<usize>);

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

/// The end of a sentence on the reward of this name, which is not among those that the program has registered.
struct Registered<'a>(&'a str, &'a [String]);

impl std::fmt::Display for Registered<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(name, known) = self;
        if known.is_empty() {
            return f.write_str(
                ", and no other of its own; run the program that registers it by `rlaif_rewards::register`",
            );
        }
        let hint = crate::nearest::did_you_mean(name, known);
        write!(f, "{hint} (registered: `{}`)", known.join("`, `"))
    }
}

#[cfg(feature = "neural")]
struct Labels<'a>(&'a [String]);

#[cfg(feature = "neural")]
impl std::fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, label) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}`{label}` ({index})")?;
        }
        Ok(())
    }
}
