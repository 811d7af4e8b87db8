//! Errors of run files, and of the files and models that they name.

use std::{io, path::PathBuf};

use rlaif_core::{BadSetting, CodecError, Fault, Interrupted, is_bad_input_file};
use rlaif_data::DataError;
use rlaif_dpo::{DpoError, PairProblem};
use rlaif_engine::EngineError;
use rlaif_eval::EvalError;
use rlaif_label::LabelError;
use rlaif_models::{CheckpointError, ConvertError, MemoryError, ModelError};
use rlaif_people::PeopleError;
use rlaif_ppo::PpoError;
use rlaif_rewards::ProviderError;
use rlaif_rl::env::SandboxError;
use rlaif_text::{MaskError, TextError};
use rlaif_torch::TorchError;
use rlaif_train::TrainError;

use crate::{
    evaluate::EvaluateError, fetch::FetchError, resume::Change, vocabulary::OtherVocabulary,
};

/// Reasons why a run did not start, or stopped early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Neither a run file nor a run to resume was given.
    #[error(
        "no run is named; give --config FILE, or --resume --out DIR to continue one (rlaif \
         {command} --help)"
    )]
    NoConfig {
        /// The command.
        command: &'static str,
    },
    /// A file that cannot be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's message.
        #[source]
        source: io::Error,
    },
    /// A file that is not TOML.
    #[error("{}: {problem}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Place and cause.
        problem: String,
    },
    /// A key that is unknown, missing or of another type.
    #[error("{}{}: {problem}", .path.display(), at(.key))]
    Content {
        /// The file.
        path: PathBuf,
        /// The key, with dots; empty at the top.
        key: String,
        /// The fault found.
        problem: String,
    },
    /// The run file of another command.
    #[error(
        "{} is of a run of `rlaif {writer}`, not of `rlaif {command}`; continue it with `rlaif \
         {writer} --resume`, or give `rlaif {command}` another run file",
        .file.display()
    )]
    OtherCommand {
        /// The file.
        file: PathBuf,
        /// The command that wrote it.
        writer: String,
        /// The command that read it.
        command: &'static str,
    },
    /// A value of `--set` that is not an assignment.
    #[error("--set {assignment}: {problem}")]
    Set {
        /// The value given.
        assignment: String,
        /// The fault found.
        problem: &'static str,
    },
    /// A resumed run with other settings.
    #[error(
        "these settings affect the result, and {} was started with others: {}; continue with \
         those, or start a new run with another --out",
        .file.display(), listed(.changes)
    )]
    Changed {
        /// The run's own file.
        file: PathBuf,
        /// The keys, with both values.
        changes: Vec<Change>,
    },
    /// A file of verdicts that cannot be continued.
    #[error("{} {problem}", .path.display())]
    Verdicts {
        /// The file.
        path: PathBuf,
        /// The fault, and the remedy.
        problem: String,
    },
    /// A file or folder that another process is writing.
    #[error(
        "{} is in use by another process; wait for its end, or choose another place", .path.display()
    )]
    Busy {
        /// The file or folder.
        path: PathBuf,
    },
    /// A file that cannot be written.
    #[error("{}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's message.
        #[source]
        source: io::Error,
    },
    /// A run file that cannot be written as TOML.
    #[error("the run file cannot be written as TOML: {source}")]
    Unwritable {
        /// The error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A setting out of range, or one that contradicts another setting or the data.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// The sandbox for the tools of an environment runs no program.
    #[error("`environment.tools`: {0}")]
    Sandbox(#[source] SandboxError),
    /// A model that cannot become the one that is trained.
    #[error("`{key}`: {source}")]
    Convert {
        /// The setting that names the model, or its labels.
        key: &'static str,
        /// The error.
        #[source]
        source: ConvertError,
    },
    /// A row that was read but cannot be used for training.
    #[error("{row}: {problem}")]
    Row {
        /// `FILE, line N`, or the row's id.
        row: String,
        /// The fault found.
        problem: RowProblem,
    },
    /// Model and tokenizer do not match.
    #[error(
        "{folder}: the tokenizer has ids up to {largest}, but the model's embedding has {rows} \
         rows; if tokens were added to the tokenizer, a training gives them rows by \
         `[model.vocabulary]` with `init = \"mean\"` in its run file; otherwise they do not belong together"
    )]
    Vocabulary {
        /// The model's folder.
        folder: String,
        /// The largest id.
        largest: usize,
        /// Rows of the embedding.
        rows: i64,
    },
    /// A reference or value function whose token ids differ from the policy's.
    #[error(transparent)]
    OtherVocabulary(#[from] Box<OtherVocabulary>),
    /// A run stopped by Ctrl-C.
    #[error("interrupted, and every whole step is saved; {how}")]
    Interrupted {
        /// The command that continues the run.
        how: String,
    },
    /// The resulting model could not be written.
    #[error(
        "the result could not be written: {source}; the last checkpoint contains it: fix the \
         problem and {how}"
    )]
    Result {
        /// The error.
        #[source]
        source: Box<ModelError>,
        /// The command that continues the run.
        how: String,
    },
    /// A reward below the grade that the run file demands.
    #[error(
        "{told}; nothing was trained. Train or choose a better reward, or lower \
         `reward.exam.at_least`{}", without_verdict(*.missing, .first.as_deref())
    )]
    Grade {
        /// The grade, and the demand.
        told: String,
        /// Questions without a verdict, which count as wrong.
        missing: usize,
        /// The reason of the first of them.
        first: Option<String>,
    },
    /// Pairs of which none has a label.
    #[error("none of {pairs} pairs has a label: {why}")]
    NoLabels {
        /// Number of pairs.
        pairs: usize,
        /// The judge and its reason, or its habit, and the remedy.
        why: String,
    },
    /// Rows or questions of which none has a verdict.
    #[error("none of {count} {what} has a verdict: {why}")]
    NoVerdicts {
        /// `rows` or `questions`.
        what: &'static str,
        /// Number of rows or questions.
        count: usize,
        /// The first reason.
        why: String,
    },
    /// Prompts of which none has a response.
    #[error("none of {prompts} prompts has a response: {why}")]
    NoResponses {
        /// Number of prompts.
        prompts: usize,
        /// The reason.
        why: String,
    },
    /// Texts of which writers wrote none.
    #[error("none of {texts} texts was written; the first: {why}")]
    NothingWritten {
        /// Number of texts.
        texts: usize,
        /// The reason.
        why: String,
    },
    /// Texts of which none becomes a prompt.
    #[error("none of {prompts} texts is kept as a prompt: {why}")]
    NoPrompts {
        /// Number of texts.
        prompts: usize,
        /// The reason.
        why: String,
    },
    /// A study whose annotators have items left.
    #[error(
        "these people have items left: {left}; they answer on the page of `rlaif ui {}`, and then the same \
         command continues", .study.display()
    )]
    Unanswered {
        /// The study's file.
        study: PathBuf,
        /// The names of annotators, with the number of items that each has left.
        left: String,
    },
    /// A study of people's answers that cannot be read or changed.
    #[error(transparent)]
    People(Box<PeopleError>),
    /// Labels that cannot be made.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// A stage of a pipeline that failed.
    #[error("stage `{stage}`: {source}")]
    Stage {
        /// The stage.
        stage: String,
        /// The error.
        #[source]
        source: Box<Self>,
    },
    /// An evaluation that failed.
    #[error(transparent)]
    Evaluate(#[from] Box<EvaluateError>),
    /// Work that was asked to stop, by Ctrl-C.
    #[error("interrupted")]
    Stopped(#[source] Interrupted),
    /// An exam that cannot be graded.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A reward that is unavailable.
    #[error(transparent)]
    Reward(#[from] ProviderError),
    /// A model that cannot be found.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A model that cannot be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A run that does not fit into memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A model's files.
    #[error(transparent)]
    Files(#[from] CheckpointError),
    /// A tokenizer that cannot be loaded.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A text that cannot be encoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Data that cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// PPO.
    #[error(transparent)]
    Ppo(#[from] PpoError),
    /// DPO.
    #[error(transparent)]
    Dpo(#[from] DpoError),
    /// Servers that cannot sample.
    #[error("`vllm`: {0}")]
    Engine(#[source] Box<EngineError>),
    /// A device that is unavailable.
    #[error(transparent)]
    Torch(#[from] TorchError),
}

/// Reasons why a row cannot be used for training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowProblem {
    /// A preference.
    #[error(transparent)]
    Preference(#[from] PairProblem),
    /// A conversation without a turn to learn.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// A conversation that the chat template refuses, or a text that the tokenizer refuses.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A label that the classifier does not have.
    #[error("the label `{label}` is neither one of {known:?} nor an index of them")]
    Label {
        /// The label.
        label: String,
        /// The labels of the classifier.
        known: Vec<String>,
    },
}

impl From<PeopleError> for RunError {
    fn from(error: PeopleError) -> Self {
        match error {
            PeopleError::Setting(error) => Self::Setting(error),
            other => Self::People(Box::new(other)),
        }
    }
}

impl From<EngineError> for RunError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Setting(error) => Self::Setting(error),
            other => Self::Engine(Box::new(other)),
        }
    }
}

impl From<EvaluateError> for RunError {
    fn from(error: EvaluateError) -> Self {
        Self::Evaluate(Box::new(error))
    }
}

impl RunError {
    /// The same error with `section` before the name of the setting, if it is about a setting: the
    /// library's configurations do not know their place in a run file.
    pub(crate) fn within(self, section: &str) -> Self {
        match self {
            Self::Setting(error) => Self::Setting(error.within(section)),
            Self::Train(error) => Self::Train(error.within(section)),
            Self::Ppo(error) => Self::Ppo(error.within(section)),
            Self::Dpo(error) => Self::Dpo(error.within(section)),
            other @ (Self::NoConfig { .. }
            | Self::Read { .. }
            | Self::Syntax { .. }
            | Self::Content { .. }
            | Self::OtherCommand { .. }
            | Self::Set { .. }
            | Self::Changed { .. }
            | Self::Verdicts { .. }
            | Self::Write { .. }
            | Self::Unwritable { .. }
            | Self::Convert { .. }
            | Self::Row { .. }
            | Self::Vocabulary { .. }
            | Self::OtherVocabulary(_)
            | Self::Interrupted { .. }
            | Self::Result { .. }
            | Self::Grade { .. }
            | Self::NoLabels { .. }
            | Self::NoVerdicts { .. }
            | Self::Busy { .. }
            | Self::NothingWritten { .. }
            | Self::NoResponses { .. }
            | Self::NoPrompts { .. }
            | Self::Unanswered { .. }
            | Self::People(_)
            | Self::Label(_)
            | Self::Stage { .. }
            | Self::Evaluate(_)
            | Self::Stopped(_)
            | Self::Eval(_)
            | Self::Reward(_)
            | Self::Fetch(_)
            | Self::Model(_)
            | Self::Memory(_)
            | Self::Files(_)
            | Self::Text(_)
            | Self::Codec(_)
            | Self::Data(_)
            | Self::Sandbox(_)
            | Self::Engine(_)
            | Self::Torch(_)) => other,
        }
    }

    /// The same error for a row, with the place of the row with this id.
    pub(crate) fn placed(self, place: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Row { row, problem } => Self::Row { row: place(&row), problem },
            other => other,
        }
    }
}

impl Fault for RunError {
    fn is_users(&self) -> bool {
        match self {
            Self::Read { source, .. } => is_bad_input_file(source),
            // A fault of the service behind the reward or the writer.
            Self::NoVerdicts { .. } | Self::NothingWritten { .. } => false,
            Self::Unanswered { .. } => false,
            Self::People(error) => error.is_users(),
            Self::NoConfig { .. }
            | Self::Syntax { .. }
            | Self::Content { .. }
            | Self::OtherCommand { .. }
            | Self::Set { .. }
            | Self::Changed { .. }
            | Self::Unwritable { .. }
            | Self::NoLabels { .. }
            | Self::NoResponses { .. }
            | Self::NoPrompts { .. } => true,
            Self::Setting(error) => error.is_users(),
            Self::Convert { source, .. } => source.is_users(),
            Self::Row { problem, .. } => problem.is_users(),
            Self::Verdicts { .. } => true,
            Self::Write { .. }
            | Self::Busy { .. }
            | Self::Interrupted { .. }
            | Self::Result { .. } => false,
            Self::Vocabulary { .. } => true,
            Self::OtherVocabulary(error) => error.is_users(),
            Self::Grade { .. } => true,
            Self::Sandbox(error) => error.is_users(),
            Self::Label(error) => error.is_users(),
            Self::Stage { source, .. } => source.is_users(),
            Self::Evaluate(error) => error.is_users(),
            Self::Stopped(_) => false,
            Self::Eval(error) => error.is_users(),
            Self::Reward(error) => error.is_users(),
            Self::Fetch(error) => error.is_users(),
            Self::Model(error) => error.is_users(),
            Self::Memory(error) => error.is_users(),
            Self::Files(error) => error.is_users(),
            Self::Text(error) => error.is_users(),
            Self::Codec(error) => error.is_users(),
            Self::Data(error) => error.is_users(),
            Self::Train(error) => error.is_users(),
            Self::Ppo(error) => error.is_users(),
            Self::Dpo(error) => error.is_users(),
            Self::Engine(error) => error.is_users(),
            Self::Torch(error) => error.is_users(),
        }
    }
}

impl Fault for RowProblem {
    fn is_users(&self) -> bool {
        match self {
            Self::Preference(error) => error.is_users(),
            Self::Codec(error) => error.is_users(),
            Self::Mask(error) => error.is_users(),
            Self::Label { .. } => true,
        }
    }
}

fn listed(changes: &[Change]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn at(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!(", `{key}`") }
}

fn without_verdict(missing: usize, first: Option<&str>) -> String {
    first.map_or_else(String::new, |first| {
        format!(" ({missing} questions without a verdict count as wrong; the first: {first})")
    })
}
