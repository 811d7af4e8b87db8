//! Errors of environments.

use rlaif_core::{BadSetting, Fault};

/// Reasons why an episode ended without a score.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvironmentError {
    /// A setting out of range.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// No answer within the time limit.
    #[error("the environment `{environment}` did not answer within {seconds} s (`timeout_s`)")]
    TimedOut {
        /// The environment.
        environment: String,
        /// The limit.
        seconds: f64,
    },
    /// The environment ended in the middle of an episode: a panic, or a lost connection.
    #[error("the environment `{environment}` died: {problem}")]
    Died {
        /// The environment.
        environment: String,
        /// The panic's message, or the connection's.
        problem: String,
    },
    /// An answer that makes no sense.
    #[error("the environment `{environment}` answered {found}; expected {expected}")]
    Garbage {
        /// The environment.
        environment: String,
        /// The answer.
        found: String,
        /// The answers that make sense.
        expected: &'static str,
    },
    /// An error that the environment reports.
    #[error("the environment `{environment}` failed: {problem}")]
    Failed {
        /// The environment.
        environment: String,
        /// Message of the environment.
        problem: String,
    },
}

impl EnvironmentError {
    /// The name of the kind in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Setting(_) => "setting",
            Self::TimedOut { .. } => "timed_out",
            Self::Died { .. } => "died",
            Self::Garbage { .. } => "garbage",
            Self::Failed { .. } => "failed",
        }
    }
}

impl Fault for EnvironmentError {
    fn is_users(&self) -> bool {
        match self {
            Self::Setting(_) => true,
            Self::TimedOut { .. }
            | Self::Died { .. }
            | Self::Garbage { .. }
            | Self::Failed { .. } => false,
        }
    }
}
