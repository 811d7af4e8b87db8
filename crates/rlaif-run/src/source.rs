//! Files of rows by path or pattern.

use rlaif_data::{DataError, Source};

/// A file, or the files that fit a pattern.
pub(crate) fn source(path: &str) -> Result<Source, DataError> {
    if is_pattern(path) { Source::glob(path) } else { Source::file(path) }
}

/// Returns whether a path is a pattern such as `shards/*.jsonl`.
pub(crate) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}
