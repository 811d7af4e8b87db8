//! What a file is, by its content.

use crate::error::DataError;

/// How rows are written in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object on each line; blank lines do not count.
    JsonLines,
    /// One JSON array of objects.
    JsonArray,
    /// RFC 4180 with a header: commas, quoted fields that may hold line breaks.
    Csv,
    /// Apache Parquet.
    Parquet,
}

pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl Format {
    /// Tells a format by the first bytes of the (decompressed) content.
    pub(super) fn recognise(head: &[u8], source_name: &str) -> Result<Self, DataError> {
        if head.starts_with(b"version https://git-lfs.github.com/spec/") {
            return Err(DataError::LfsPointer { source_name: source_name.to_owned() });
        }
        if head.starts_with(b"PAR1") {
            return Ok(Self::Parquet);
        }
        let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
        match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
            None => Err(DataError::Empty { source_name: source_name.to_owned() }),
            Some(b'{') => Ok(Self::JsonLines),
            Some(b'[') => Ok(Self::JsonArray),
            Some(_) => Ok(Self::Csv),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_content() {
        for (head, format) in [
            (&b"{\"a\":1}"[..], Format::JsonLines),
            (b"\xef\xbb\xbf \n{\"a\":1}", Format::JsonLines),
            (b"  [\n{", Format::JsonArray),
            (b"id,dialogue\n", Format::Csv),
            (b"\"id\",\"dialogue\"\n", Format::Csv),
            (b"PAR1\x15\x04", Format::Parquet),
        ] {
            assert_eq!(Format::recognise(head, "f").unwrap(), format);
        }
    }
}
