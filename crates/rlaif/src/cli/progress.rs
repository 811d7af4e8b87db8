//! Progress bars on standard error.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of this length if standard error is a terminal and the length is known, else a hidden bar.
pub(crate) fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    match length {
        Some(length) if io::stderr().is_terminal() => ProgressBar::new(length).with_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        ),
        _ => ProgressBar::hidden(),
    }
}
