//! Errors of training.

use std::{
    io,
    path::{Path, PathBuf},
};

use rlaif_checkpoint::CheckpointError;
use rlaif_core::{BadSetting, Fault, MetricError, is_bad_input_file};
use rlaif_lm::LmError;
use rlaif_torch::TorchError;

/// Reasons why a run stopped or did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting outside its range.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// There is nothing to train.
    #[error("no parameter is trained: {why}")]
    NothingTrained {
        /// The reason.
        why: &'static str,
    },
    /// Too many consecutive steps had gradients with NaN or infinity.
    #[error(
        "step {step}: NaN or infinity in the gradient of {}; {}",
        first(.tensors),
        if step == skipped {
            "no step before it was good, so the weights have not changed. Look at its rows and their \
             scores, and train in f32".to_owned()
        } else {
            format!(
                "{skipped} steps in a row were skipped. Lower the learning rate, clip gradients, or \
                 train in f32; the weights are those of the last good step"
            )
        }
    )]
    NonFinite {
        /// The step at which the run gave up.
        step: u64,
        /// Number of consecutive skipped steps.
        skipped: u64,
        /// The parameters with such gradients, in name order.
        tensors: Vec<String>,
    },
    /// The folder already holds a run.
    #[error(
        "{} already holds a run; continue it (--resume), or choose another folder (--out)",
        .folder.display()
    )]
    RunExists {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder holds no run to resume.
    #[error("{} holds no run to resume: there is no run.toml in it", .folder.display())]
    NoRun {
        /// The folder.
        folder: PathBuf,
    },
    /// Another process is writing to the folder.
    #[error(
        "{} is in use: another process is running in it; wait for it or stop it",
        .folder.display()
    )]
    RunBusy {
        /// The folder.
        folder: PathBuf,
    },
    /// A file of a run could not be written.
    #[error("{}: {source}; {}", .path.display(), advice(.source))]
    Write {
        /// The file to write.
        path: PathBuf,
        /// The system's message.
        #[source]
        source: io::Error,
    },
    /// A checkpoint could not be written; the earlier ones are unchanged.
    #[error(
        "checkpoint {} could not be written: {source}; {}. {}",
        .path.display(), .advice, describe_last(.last_good.as_deref())
    )]
    CheckpointWrite {
        /// The checkpoint.
        path: PathBuf,
        /// Advice to the user.
        advice: &'static str,
        /// The checkpoint that a resumed run continues from.
        last_good: Option<PathBuf>,
        /// The failure.
        #[source]
        source: Box<TrainError>,
    },
    /// A file of a run could not be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file to read.
        path: PathBuf,
        /// The system's message.
        #[source]
        source: io::Error,
    },
    /// A checkpoint that cannot be used.
    #[error("{}: {problem}", .path.display())]
    BadCheckpoint {
        /// The checkpoint's folder, or a file in it.
        path: PathBuf,
        /// The fault found.
        problem: String,
    },
    /// Every checkpoint of a run is damaged.
    #[error(
        "no checkpoint of {} can be used, so the run cannot continue: {}. Start a new run in \
         another folder",
        .folder.display(), .problems.join("; ")
    )]
    NoGoodCheckpoint {
        /// The folder of checkpoints.
        folder: PathBuf,
        /// The fault of each.
        problems: Vec<String>,
    },
    /// A saved value that this program does not expect.
    #[error("{}: {source}", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The position and the cause.
        #[source]
        source: serde_json::Error,
    },
    /// Data that a run cannot be trained on.
    #[error("{what}: {problem}")]
    Data {
        /// Name of the data.
        what: String,
        /// The fault, and the remedy.
        problem: String,
    },
    /// A file of tensors could not be written or read.
    #[error(transparent)]
    Files(#[from] CheckpointError),
    /// Metrics could not be passed on.
    #[error(transparent)]
    Metric(#[from] MetricError),
    /// The model failed.
    #[error(transparent)]
    Lm(#[from] LmError),
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// The training objective failed with an error of its own.
    #[error("{source}")]
    Task {
        /// The error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        /// `true` if the user's input is at fault, see [`Fault`].
        users: bool,
    },
}

impl From<tch::TchError> for TrainError {
    fn from(source: tch::TchError) -> Self {
        Self::Torch(TorchError::from(source))
    }
}

impl Fault for TrainError {
    fn is_users(&self) -> bool {
        match self {
            Self::NothingTrained { .. }
            | Self::RunExists { .. }
            | Self::NoRun { .. }
            | Self::Data { .. } => true,
            Self::Setting(error) => error.is_users(),
            Self::Read { source, .. } => is_bad_input_file(source),
            Self::Task { users, .. } => *users,
            Self::Files(error) => error.is_users(),
            Self::Metric(error) => error.is_users(),
            Self::Lm(error) => error.is_users(),
            Self::Torch(error) => error.is_users(),
            // The machine, or files that the run itself wrote.
            Self::NonFinite { .. }
            | Self::RunBusy { .. }
            | Self::Write { .. }
            | Self::CheckpointWrite { .. }
            | Self::BadCheckpoint { .. }
            | Self::NoGoodCheckpoint { .. }
            | Self::Json { .. } => false,
        }
    }
}

impl TrainError {
    /// Wraps the error of a custom task, which is shown unchanged.
    ///
    /// ```
    /// use rlaif_core::{BadSetting, Fault};
    /// let error = rlaif_train::TrainError::task(BadSetting::new("groups", 1, "at least 2"));
    /// assert!(error.is_users());
    /// assert_eq!(error.to_string(), "`groups` is 1; expected at least 2");
    /// ```
    pub fn task<E: std::error::Error + Fault + Send + Sync + 'static>(error: E) -> Self {
        Self::Task { users: error.is_users(), source: Box::new(error) }
    }

    /// Prefixes the setting's name with `section`, if this is the error of a setting.
    #[must_use]
    pub fn within(self, section: &str) -> Self {
        match self {
            Self::Setting(error) => Self::Setting(error.within(section)),
            other @ (Self::NothingTrained { .. }
            | Self::NonFinite { .. }
            | Self::RunExists { .. }
            | Self::NoRun { .. }
            | Self::RunBusy { .. }
            | Self::Write { .. }
            | Self::CheckpointWrite { .. }
            | Self::Read { .. }
            | Self::BadCheckpoint { .. }
            | Self::NoGoodCheckpoint { .. }
            | Self::Json { .. }
            | Self::Data { .. }
            | Self::Files(_)
            | Self::Metric(_)
            | Self::Lm(_)
            | Self::Torch(_)
            | Self::Task { .. }) => other,
        }
    }

    pub(crate) fn write(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Write { path: path.clone(), source }
    }

    pub(crate) fn read(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Read { path: path.clone(), source }
    }

    pub(crate) fn setting(
        field: &'static str,
        found: impl std::fmt::Display,
        expected: &'static str,
    ) -> Self {
        BadSetting::new(field, found, expected).into()
    }

    /// The file system's error, if there was one.
    pub(crate) fn io(&self) -> Option<&io::Error> {
        let mut source: &(dyn std::error::Error + 'static) = self;
        loop {
            if let Some(io) = source.downcast_ref::<io::Error>() {
                return Some(io);
            }
            source = source.source()?;
        }
    }
}

/// Advice after a failed write.
pub(crate) fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space there, or keep fewer checkpoints, and continue with --resume"
        }
        io::ErrorKind::FileTooLarge => {
            "the file is larger than this system or its limits (ulimit -f) allow; raise the limit \
             and continue with --resume"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "make the folder writable for this user and continue with --resume, or choose another with \
             --out"
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "there is a file where a folder is to be; choose another folder with --out"
        }
        _ => "check that the folder is writable, and continue with --resume",
    }
}

fn first(tensors: &[String]) -> String {
    match tensors {
        [] => "no parameter (the sum of squares overflowed)".to_owned(),
        [one] => format!("`{one}`"),
        [one, rest @ ..] => format!("`{one}` and {} more", rest.len()),
    }
}

fn describe_last(path: Option<&Path>) -> String {
    match path {
        Some(path) => format!("The last good checkpoint is {}", path.display()),
        None => "There is no earlier checkpoint".to_owned(),
    }
}
