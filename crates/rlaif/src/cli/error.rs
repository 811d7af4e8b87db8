//! Error messages of the command, and its exit codes.

use std::{fmt, io};

use rlaif_core::{BadSetting, Fault, Interrupted};
use rlaif_people::PeopleError;
use rlaif_rewards::ProviderError;
use rlaif_torch::TorchError;

use rlaif_run::{ProjectError, RunError, TrlError, command::CommandError};

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
    #[error(transparent)]
    Command(CommandError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Torch(#[from] TorchError),
    #[error(transparent)]
    Trl(#[from] TrlError),
    #[error(transparent)]
    Project(#[from] ProjectError),
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
        rlaif_core::with_causes(self)
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
        let (Self::Io { source, .. }
        | Self::Command(CommandError::Run(RunError::Reward(ProviderError::Stream {
            source,
            ..
        })))) = self
        else {
            return false;
        };
        source.kind() == io::ErrorKind::BrokenPipe
    }
}

impl Fault for CliError {
    fn is_users(&self) -> bool {
        match self {
            Self::Flag(_) => true,
            Self::Io { .. } => false,
            Self::Command(error) => error.is_users(),
            Self::Run(error) => error.is_users(),
            Self::Torch(error) => error.is_users(),
            Self::Trl(error) => error.is_users(),
            Self::Project(error) => error.is_users(),
            Self::People(error) => error.is_users(),
            #[cfg(feature = "ui")]
            Self::Ui(error) => error.is_users(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, path::PathBuf};

    use rlaif_core::{MetricError, RewardError};
    use rlaif_data::DataError;
    use rlaif_dpo::DpoError;
    use rlaif_eval::EvalError;
    use rlaif_hub::HubError;
    use rlaif_lm::{LmError, generate::RolloutConcern};
    use rlaif_models::{CheckpointError, ModelError};
    use rlaif_ppo::PpoError;
    use rlaif_rl::env::SandboxError;
    use rlaif_run::FetchError;
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

    /// A machine without a sandbox.
    fn confined() -> SandboxError {
        SandboxError::Unavailable { problem: "it needs Linux".to_owned() }
    }

    fn mistyped() -> SandboxError {
        let found = "No such file or directory".to_owned();
        SandboxError::Interpreter { python: "pyhton3".to_owned(), found }
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
            (RunError::Model(read(ErrorKind::NotFound).into()).into(), 2),
            (RunError::Model(read(ErrorKind::Other).into()).into(), 1),
            (RunError::Model(CheckpointError::LfsPointer { file: path() }.into()).into(), 2),
            (RunError::Model(unreadable(ErrorKind::UnexpectedEof)).into(), 2),
            (RunError::Model(unreadable(ErrorKind::TimedOut)).into(), 1),
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
                RunError::Eval(EvalError::Io {
                    action: rlaif_core::FileAction::Read,
                    path: path(),
                    source: ErrorKind::NotFound.into(),
                })
                .into(),
                2,
            ),
            (
                RunError::Eval(EvalError::Io {
                    action: rlaif_core::FileAction::Write,
                    path: path(),
                    source: ErrorKind::NotFound.into(),
                })
                .into(),
                1,
            ),
            (
                RunError::Reward(ProviderError::File {
                    path: path(),
                    source: ErrorKind::NotFound.into(),
                })
                .into(),
                2,
            ),
            // A judge's cache on a full or read-only disk.
            (RunError::Reward(cache(false)).into(), 1),
            (RunError::Reward(cache(true)).into(), 2),
            // Errors of the machine.
            (CliError::Torch(out_of_memory()), 1),
            (RunError::Model(out_of_memory().into()).into(), 1),
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
                RunError::Fetch(FetchError::Hub(HubError::RateLimited {
                    endpoint: "https://hub".to_owned(),
                    wait_s: None,
                }))
                .into(),
                1,
            ),
            (
                RunError::from(FetchError::from(HubError::InvalidRepoId {
                    id: "a/b/c".to_owned(),
                    reason: "",
                }))
                .into(),
                2,
            ),
            // A key or a token that a server does not accept, at the hub and at a judge.
            (
                RunError::from(FetchError::from(HubError::BadToken {
                    endpoint: "https://hub".to_owned(),
                    origin: "HF_TOKEN".to_owned(),
                }))
                .into(),
                2,
            ),
            (
                RunError::Reward(ProviderError::Unauthorised {
                    api: "https://judge".to_owned(),
                    key: "JUDGE_KEY".to_owned(),
                    status: 401,
                    message: "expired".to_owned(),
                })
                .into(),
                2,
            ),
            // Rewards.
            (RunError::Reward(judge_failed().into()).into(), 1),
            (RunError::from(PpoError::from(judge_failed())).into(), 1),
            (RunError::from(TrainError::from(DpoError::from(judge_failed()))).into(), 1),
            // One error of the sandbox, in a reward and in an environment.
            (RunError::Reward(confined().into()).into(), 1),
            (RunError::Sandbox(confined()).into(), 1),
            (RunError::Reward(mistyped().into()).into(), 2),
            (RunError::Sandbox(mistyped()).into(), 2),
            (RunError::Reward(ProviderError::model_folder("m", HubError::NoCacheFolder)).into(), 1),
        ];
        for (error, code) in table {
            assert_eq!(error.code(), code, "{}", error.chain());
        }
    }
}
