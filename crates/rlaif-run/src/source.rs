//! Files of rows by path or pattern.

use rlaif_data::{DataError, Source};

/// A file, or the files that fit a pattern.
pub(crate) fn source(path: &str) -> Result<Source, DataError> {
    if path.contains(['*', '?', '[']) { Source::glob(path) } else { Source::file(path) }
}
