//! Error messages of the command, and its exit codes.

use std::{fmt, io, path::PathBuf};

use rlaif_core::{BadSetting, CodecError, Fault, Interrupted};
use rlaif_dpo::DpoError;
use rlaif_eval::EvalError;
use rlaif_hub::HubError;
use rlaif_models::{ConvertError, ModelError};
use rlaif_people::PeopleError;
use rlaif_rewards::ProviderError;
use rlaif_text::TextError;
use rlaif_torch::TorchError;

use rlaif_run::{EvaluateError, FetchError, RunError, command::CommandError};

/// Reasons why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Reading or writing failed.
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    /// A flag with an invalid value; the flag is `field`, with dashes for underscores.
    #[error("--{} is {}; expected {}", .0.field.replace('_', "-"), .0.found, .0.expected)]
    Flag(BadSetting),
    /// A folder without a report.
    #[error(
        "{} holds no report: there is no report.json in it; `rlaif eval --out` and the examples \
         write one", .folder.display()
    )]
    NoReport { folder: PathBuf },
    /// The same run given twice.
    #[error("{} is given twice; name each run once", .folder.display())]
    SameRun { folder: PathBuf },
    #[error(transparent)]
    Command(CommandError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Convert(#[from] ConvertError),
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Dpo(#[from] DpoError),
    #[error(transparent)]
    Torch(#[from] TorchError),
    #[error(transparent)]
    Reward(#[from] ProviderError),
    #[error(transparent)]
    Evaluate(EvaluateError),
    #[error(transparent)]
    Eval(#[from] EvalError),
    #[error(transparent)]
    People(#[from] PeopleError),
    #[cfg(feature = "ui")]
    #[error(transparent)]
    Ui(#[from] rlaif_ui::UiError),
}

impl From<CommandError> for CliError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Output(source) => Self::Io { what: "standard output".to_owned(), source },
            CommandError::Setting(setting) => Self::Flag(setting),
            other => Self::Command(other),
        }
    }
}

impl From<EvaluateError> for CliError {
    fn from(error: EvaluateError) -> Self {
        match error {
            EvaluateError::Eval(source) => Self::Eval(source),
            EvaluateError::Reward(source) => Self::Reward(source),
            EvaluateError::Fetch(source) => source.into(),
            EvaluateError::Model(source) => Self::Model(source),
            EvaluateError::Text(source) => Self::Text(source),
            EvaluateError::Codec(source) => Self::Codec(source),
            EvaluateError::Torch(source) => Self::Torch(source),
            other => Self::Evaluate(other),
        }
    }
}

impl CliError {
    /// The refusal of a flag's value.
    pub(crate) fn flag(
        flag: &'static str,
        found: impl fmt::Display,
        expected: &'static str,
    ) -> Self {
        Self::Flag(BadSetting::new(flag, found, expected))
    }

    /// The message, followed by those of its causes that it does not repeat.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let said = error.to_string();
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            cause = error.source();
        }
        text
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            // 128 + SIGINT, as in shells.
            Self::Run(RunError::Interrupted { .. }) => 130,
            error if Interrupted::ended(error) => 130,
            error => 1 + u8::from(error.is_users()),
        }
    }

    pub(crate) fn is_broken_pipe(&self) -> bool {
        let (Self::Io { source, .. } | Self::Reward(ProviderError::Stream { source, .. })) = self
        else {
            return false;
        };
        source.kind() == io::ErrorKind::BrokenPipe
    }
}

impl Fault for CliError {
    fn is_users(&self) -> bool {
        match self {
            Self::Flag(_) | Self::NoReport { .. } | Self::SameRun { .. } => true,
            Self::Io { .. } => false,
            Self::Command(error) => error.is_users(),
            Self::Run(error) => error.is_users(),
            Self::Model(error) => error.is_users(),
            Self::Convert(error) => error.is_users(),
            Self::Text(error) => error.is_users(),
            Self::Codec(error) => error.is_users(),
            Self::Hub(error) => error.is_users(),
            Self::Fetch(error) => error.is_users(),
            Self::Dpo(error) => error.is_users(),
            Self::Torch(error) => error.is_users(),
            Self::Reward(error) => error.is_users(),
            Self::Evaluate(error) => error.is_users(),
            Self::Eval(error) => error.is_users(),
            Self::People(error) => error.is_users(),
            #[cfg(feature = "ui")]
            Self::Ui(error) => error.is_users(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use rlaif_core::{MetricError, RewardError};
    use rlaif_data::DataError;
    use rlaif_lm::{LmError, generate::RolloutConcern};
    use rlaif_models::CheckpointError;
    use rlaif_ppo::PpoError;
    use rlaif_train::TrainError;

    use super::*;

    fn setting() -> BadSetting {
        BadSetting::new("lr", -1, "a positive number")
    }

    fn out_of_memory() -> TorchError {
        TorchError::OutOfMemory { requested: None, message: "no memory".to_owned() }
    }

    fn judge_failed() -> RewardError {
        RewardError::Failed { model: "judge".to_owned(), source: "no connection".into() }
    }

    /// Errors with their exit codes, for each kind of reason and each nesting of errors.
    #[test]
    fn exit_codes() {
        let path = || PathBuf::from("file");
        let read = |kind: ErrorKind| CheckpointError::Read { path: path(), source: kind.into() };
        let cache = |misnamed| ProviderError::Cache {
            path: path(),
            source: "database or disk is full".into(),
            misnamed,
        };
        let unreadable = |kind| ModelError::Tensors {
            file: path(),
            problems: vec![rlaif_models::TensorProblem::Unreadable {
                name: "weight".to_owned(),
                source: Box::new(read(kind).into()),
            }],
        };
        let table: Vec<(CliError, u8)> = vec![
            (RunError::Interrupted { how: String::new() }.into(), 130),
            // Settings, in any place.
            (RunError::from(setting()).into(), 2),
            (RunError::from(TrainError::from(setting())).into(), 2),
            (RunError::from(PpoError::Train(TrainError::Torch(setting().into()))).into(), 2),
            (RunError::from(DpoError::from(LmError::from(setting()))).into(), 2),
            (RunError::from(TrainError::from(DpoError::from(setting()))).into(), 2),
            (RunError::from(PpoError::rollout(RolloutConcern::Greedy)).into(), 2),
            (CommandError::Lm(setting().into()).into(), 2),
            (CliError::Torch(TorchError::DeviceName { found: "gpu".to_owned() }), 2),
            // Inputs that do not exist or are faulty, and a disk that fails.
            (CommandError::Lm(out_of_memory().into()).into(), 1),
            (RunError::Read { path: path(), source: ErrorKind::PermissionDenied.into() }.into(), 1),
            (CliError::Model(read(ErrorKind::NotFound).into()), 2),
            (CliError::Model(read(ErrorKind::Other).into()), 1),
            (CliError::Model(CheckpointError::LfsPointer { file: path() }.into()), 2),
            (CliError::Model(unreadable(ErrorKind::UnexpectedEof)), 2),
            (CliError::Model(unreadable(ErrorKind::TimedOut)), 1),
            (RunError::Read { path: path(), source: ErrorKind::NotFound.into() }.into(), 2),
            (
                RunError::Read { path: path(), source: ErrorKind::StaleNetworkFileHandle.into() }
                    .into(),
                1,
            ),
            (
                RunError::from(DataError::Io {
                    source_name: "rows".to_owned(),
                    source: ErrorKind::TimedOut.into(),
                })
                .into(),
                1,
            ),
            (RunError::from(DataError::NoMatch { pattern: "*.jsonl".to_owned() }).into(), 2),
            (
                CliError::Eval(EvalError::Io {
                    action: rlaif_core::FileAction::Read,
                    path: path(),
                    source: ErrorKind::NotFound.into(),
                }),
                2,
            ),
            (
                CliError::Eval(EvalError::Io {
                    action: rlaif_core::FileAction::Write,
                    path: path(),
                    source: ErrorKind::NotFound.into(),
                }),
                1,
            ),
            (
                CliError::Reward(ProviderError::File {
                    path: path(),
                    source: ErrorKind::NotFound.into(),
                }),
                2,
            ),
            // Issue 25: a judge's cache on a full or read-only disk.
            (CliError::Reward(cache(false)), 1),
            (CliError::Reward(cache(true)), 2),
            // Errors of the machine.
            (CliError::Torch(out_of_memory()), 1),
            (CliError::Model(out_of_memory().into()), 1),
            (RunError::from(PpoError::from(LmError::from(out_of_memory()))).into(), 1),
            (RunError::from(TrainError::from(LmError::not_finite(0, 0))).into(), 1),
            (RunError::from(TrainError::from(MetricError::new("log", "disk full"))).into(), 1),
            (
                RunError::from(TrainError::Write {
                    path: path(),
                    source: ErrorKind::StorageFull.into(),
                })
                .into(),
                1,
            ),
            (CliError::Io { what: "output".to_owned(), source: ErrorKind::BrokenPipe.into() }, 1),
            (
                CliError::Hub(HubError::RateLimited {
                    endpoint: "https://hub".to_owned(),
                    wait_s: None,
                }),
                1,
            ),
            (
                RunError::Fetch(FetchError::Hub(HubError::RateLimited {
                    endpoint: "https://hub".to_owned(),
                    wait_s: None,
                }))
                .into(),
                1,
            ),
            (CliError::Hub(HubError::InvalidRepoId { id: "a/b/c".to_owned(), reason: "" }), 2),
            // Rewards.
            (CliError::Reward(judge_failed().into()), 1),
            (RunError::from(PpoError::from(judge_failed())).into(), 1),
            (RunError::from(TrainError::from(DpoError::from(judge_failed()))).into(), 1),
            (CliError::Reward(ProviderError::model_folder("m", HubError::NoCacheFolder)), 1),
        ];
        for (error, code) in table {
            assert_eq!(error.code(), code, "{}", error.chain());
        }
    }
}
