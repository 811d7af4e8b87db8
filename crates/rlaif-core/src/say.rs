//! Lines on standard error that cannot end a run.

use std::{
    fmt::Display,
    io::{self, Write},
};

use crate::printable;

/// Writes a line to standard error, as [`printable`] text.
///
/// A standard error that is closed or full loses the line, and nothing else: a run of hours does
/// not end because its terminal did. `eprintln!` would panic.
///
/// ```
/// rlaif_core::say("step 1 of 10");
/// ```
pub fn say(line: impl Display) {
    // One write, so that lines of several threads do not mix.
    let line = format!("{}\n", printable(&line.to_string()));
    let _ = io::stderr().lock().write_all(line.as_bytes());
}
