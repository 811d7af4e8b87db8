//! Progress of reading.

use std::io::IsTerminal;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Progress of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressUpdate {
    /// Bytes read so far, as stored.
    pub bytes: u64,
    /// Size of the files in bytes, as stored.
    pub total_bytes: u64,
    /// Rows parsed so far.
    pub rows: u64,
}

/// Receiver of progress updates.
#[derive(Clone, Default)]
pub enum ReadingProgress {
    /// None.
    #[default]
    Silent,
    /// A bar on standard error if that is a terminal; otherwise none.
    Bar,
    /// A function, called from the thread that takes the records.
    Callback(Arc<dyn Fn(ProgressUpdate) + Send + Sync>),
}

impl std::fmt::Debug for ReadingProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Silent => "Silent",
            Self::Bar => "Bar",
            Self::Callback(_) => "Callback",
        })
    }
}

pub(super) enum Display {
    Silent,
    Bar(ProgressBar),
    Callback(Arc<dyn Fn(ProgressUpdate) + Send + Sync>),
}

impl Display {
    pub(super) fn new(progress: ReadingProgress, total_bytes: u64) -> Self {
        match progress {
            ReadingProgress::Silent => Self::Silent,
            ReadingProgress::Bar if !std::io::stderr().is_terminal() => Self::Silent,
            ReadingProgress::Bar => {
                let bar = ProgressBar::with_draw_target(
                    Some(total_bytes),
                    ProgressDrawTarget::stderr_with_hz(5),
                );
                let style = ProgressStyle::with_template(
                    "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}",
                );
                Self::Bar(match style {
                    Ok(style) => bar.with_style(style),
                    Err(_) => bar,
                })
            }
            ReadingProgress::Callback(callback) => Self::Callback(callback),
        }
    }

    pub(super) fn show(&self, update: ProgressUpdate) {
        match self {
            Self::Silent => {}
            Self::Bar(bar) => {
                bar.set_position(update.bytes);
                bar.set_message(format!("{} rows", update.rows));
            }
            Self::Callback(callback) => callback(update),
        }
    }

    pub(super) fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
