//! Strict and lenient reading.

/// Treatment of rows that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Reading stops with the error.
    #[default]
    Strict,
    /// The row is left out and counted, and the first few are shown in the provenance. A file that
    /// is damaged as a whole still stops the reading.
    Lenient,
}
