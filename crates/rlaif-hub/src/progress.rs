//! Progress of downloads.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// An event of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A transfer begins, or resumes where an earlier one stopped.
    Started {
        /// The file's name in the repository.
        file: &'a str,
        /// Bytes of the whole file.
        total: u64,
        /// Bytes that are on this disk already.
        present: u64,
    },
    /// Bytes were written.
    Advanced {
        /// The file's name in the repository.
        file: &'a str,
        /// Bytes of the file on this disk now.
        present: u64,
    },
    /// The file is complete and checked, or was given up.
    Ended {
        /// The file's name in the repository.
        file: &'a str,
    },
    /// Something the user may want to know: a pause before a retry, a fallback to the cache.
    Notice {
        /// One sentence.
        text: &'a str,
    },
}

/// Receiver of download events. Called from the thread that downloads.
pub trait DownloadProgress: Send + Sync {
    /// Handles `event`; must not block for long.
    fn note(&self, event: Event<'_>);
}

/// Ignores all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl DownloadProgress for Quiet {
    fn note(&self, _event: Event<'_>) {}
}

/// Shows bars on standard error if that is a terminal. Notices are always printed to standard
/// error.
#[derive(Debug, Default)]
pub struct Bars {
    all: MultiProgress,
    by_file: Mutex<HashMap<String, ProgressBar>>,
}

impl DownloadProgress for Bars {
    fn note(&self, event: Event<'_>) {
        let mut bars = self.by_file.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { file, total, present } => {
                let bar = bars.entry(file.to_owned()).or_insert_with(|| {
                    let style = ProgressStyle::with_template(
                        "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} ({eta})",
                    )
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
                    self.all.add(
                        ProgressBar::new(total).with_style(style).with_message(file.to_owned()),
                    )
                });
                bar.set_position(present);
                bar.reset_eta();
            }
            Event::Advanced { file, present } => {
                if let Some(bar) = bars.get(file) {
                    bar.set_position(present);
                }
            }
            Event::Ended { file } => {
                if let Some(bar) = bars.remove(file) {
                    bar.finish_and_clear();
                    self.all.remove(&bar);
                }
            }
            Event::Notice { text } => {
                if std::io::stderr().is_terminal() {
                    // Above the bars instead of through them. A notice that cannot be shown does
                    // not fail a download.
                    let _ = self.all.println(text);
                } else {
                    let _ = writeln!(std::io::stderr(), "{text}");
                }
            }
        }
    }
}
