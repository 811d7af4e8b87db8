//! Files of rows by path or pattern.

use rlaif_data::{DataError, Source, builtin::Part};

/// A file, the files that fit a pattern, or a part of the built-in corpus.
pub(crate) fn source(path: &str) -> Result<Source, DataError> {
    if let Some(part) = Part::of_name(path) {
        return Ok(Source::builtin(part));
    }
    if is_pattern(path) { Source::glob(path) } else { Source::file(path) }
}

/// Returns whether a path is a pattern such as `shards/*.jsonl`.
pub(crate) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}
