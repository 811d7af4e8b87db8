//! Errors of the sandbox.

use rlaif_core::{BadSetting, Fault};

/// Reasons why no program runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A limit out of range.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// The interpreter does not start, or is not a Python that can confine itself.
    #[error(
        "the interpreter `{python}` cannot be used: {found}; `python` takes Python 3 with `ctypes`, as a name on \
         the path or a file"
    )]
    Interpreter {
        /// The name or the file.
        python: String,
        /// The operating system's message, or the interpreter's.
        found: String,
    },
    /// A program that cannot be run.
    #[error(
        "the program `{program}` cannot be used: {found}; give an executable file, as a name on the path or with its \
         folder"
    )]
    Program {
        /// The name or the file.
        program: String,
        /// The fault found.
        found: String,
    },
    /// This machine cannot confine programs, or one could not be confined. None runs without.
    #[error("programs cannot be run in a sandbox here: {problem}")]
    Unavailable {
        /// The fault found.
        problem: String,
    },
}

impl SandboxError {
    pub(crate) fn unavailable(problem: impl Into<String>) -> Self {
        Self::Unavailable { problem: problem.into() }
    }
}

impl Fault for SandboxError {
    fn is_users(&self) -> bool {
        match self {
            Self::Setting(_) | Self::Interpreter { .. } | Self::Program { .. } => true,
            Self::Unavailable { .. } => false,
        }
    }
}
