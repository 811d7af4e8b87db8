//! Programs other than Python's.

use std::{env, path::PathBuf};

use crate::SandboxError;

/// A program that a sandbox may run ([`crate::Sandbox::run_program`]), and what it may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The path that names it, which may be a link: some programs act by their name.
    pub(crate) name: PathBuf,
    file: PathBuf,
    pub(crate) readable: Vec<PathBuf>,
}

impl Program {
    /// A program by its name on the path, or by its file. Besides the folders of the system's programs and
    /// libraries, it may read its own file and what is below `readable`.
    ///
    /// # Errors
    /// [`SandboxError::Program`] for one that is not there or cannot be executed, and for a path of `readable` that
    /// does not exist.
    pub fn new(program: &str, readable: &[String]) -> Result<Self, SandboxError> {
        let failed = |found: String| SandboxError::Program { program: program.to_owned(), found };
        let file = match program.contains('/') {
            true => Some(PathBuf::from(program)),
            false => on_the_path(program),
        };
        let file = file.ok_or_else(|| failed("no folder of `PATH` has it".to_owned()))?;
        // The program starts in another folder.
        let name = std::path::absolute(&file).map_err(|error| failed(error.to_string()))?;
        // The kernel's rules are about files, not about names.
        let file = file.canonicalize().map_err(|error| failed(error.to_string()))?;
        if !is_executable(&file) {
            return Err(failed("it is not an executable file".to_owned()));
        }
        let path = |text: &String| {
            let missing = |error| failed(format!("`{text}`, which it may read: {error}"));
            PathBuf::from(text).canonicalize().map_err(missing)
        };
        let readable = readable.iter().map(path).collect::<Result<_, _>>()?;
        Ok(Self { name, file, readable })
    }

    /// The paths that the program may read.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.file).chain(&self.readable)
    }
}

/// The right of a process to become another program, under the same rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Becoming {
    Denied,
    Allowed,
}

fn on_the_path(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    let files = env::split_paths(&folders).map(|folder| folder.join(name));
    files.into_iter().find(is_executable)
}

#[expect(clippy::ptr_arg, reason = "for `find`")]
fn is_executable(file: &PathBuf) -> bool {
    #[cfg(unix)]
    let may = |metadata: &std::fs::Metadata| {
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0
    };
    #[cfg(not(unix))]
    let may = |_: &std::fs::Metadata| true;
    file.metadata().is_ok_and(|metadata| metadata.is_file() && may(&metadata))
}
