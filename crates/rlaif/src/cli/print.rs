//! Standard output, which may be full or closed.

use std::{
    fmt::Display,
    io::{self, Write},
};

use super::error::CliError;

/// Writes a line to standard output. If it is closed, the command ends silently; if it is full,
/// with an error. `println!` would panic in both cases.
pub(crate) fn print(line: impl Display) -> Result<(), CliError> {
    let mut output = io::stdout().lock();
    output
        .write_all(format!("{line}\n").as_bytes())
        .and_then(|()| output.flush())
        .map_err(unwritable)
}

/// The error of a standard output that cannot be written to.
pub(crate) fn unwritable(source: io::Error) -> CliError {
    CliError::Io { what: "standard output".to_owned(), source }
}
