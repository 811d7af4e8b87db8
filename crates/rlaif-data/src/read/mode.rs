//! Strict and lenient reading.

/// What happens at a row that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The reading ends with the error.
    #[default]
    Strict,
    /// The row is left out, counted and, if among the first few, shown in the provenance. A file
    /// that is damaged as a whole still ends the reading.
    Lenient,
}
