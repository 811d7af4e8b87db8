//! Progress of a long step: a line that is rewritten on a terminal, and an occasional line
//! elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

pub(crate) struct Progress {
    label: String,
    every: Duration,
    last: Instant,
    rewrites: bool,
}

impl Progress {
    pub(crate) fn new(label: impl Into<String>) -> Self {
        let rewrites = stderr().is_terminal();
        let every = Duration::from_millis(if rewrites { 200 } else { 5_000 });
        Self { label: label.into(), every, last: Instant::now(), rewrites }
    }

    /// Shows `done` of `total` bytes, at most a few times per second.
    pub(crate) fn show(&mut self, done: u64, total: Option<u64>) {
        if self.last.elapsed() < self.every {
            return;
        }
        self.last = Instant::now();
        self.print(&line(&self.label, done, total), if self.rewrites { "" } else { "\n" });
    }

    /// Shows the end of the step.
    pub(crate) fn finish(self, done: u64) {
        self.print(&format!("{}: {}", self.label, megabytes(done)), "\n");
    }

    fn print(&self, text: &str, end: &str) {
        let start = if self.rewrites { "\r\x1b[K" } else { "" };
        // An error of the display does not fail the step.
        let _ = write!(stderr(), "{start}  {text}{end}").and_then(|()| stderr().flush());
    }
}

fn line(label: &str, done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) if total > 0 => {
            // pip copies its downloads, and for a moment there are more bytes than the total.
            let done = done.min(total);
            let percent = done * 100 / total;
            format!("{label}: {} of {} ({percent} %)", megabytes(done), megabytes(total))
        }
        _ => format!("{label}: {}", megabytes(done)),
    }
}

/// Megabytes of a million bytes, as pip counts.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_shown_where_the_whole_is_known() {
        assert_eq!(line("torch", 5_000_000, Some(20_000_000)), "torch: 5.0 MB of 20.0 MB (25 %)");
        assert_eq!(line("torch", 9_000_000, Some(8_000_000)), "torch: 8.0 MB of 8.0 MB (100 %)");
        assert_eq!(line("torch", 5_150_000, None), "torch: 5.1 MB");
    }
}
