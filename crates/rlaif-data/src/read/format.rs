//! Recognises the format of a file by its content.

use crate::error::DataError;

/// The notation of rows in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
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

/// The first bytes of files in known but unsupported formats, and the formats' names.
const FOREIGN: &[(usize, &[u8], &str)] = &[
    (0, b"PARE", "an encrypted Parquet file"),
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"\x04\x22\x4d\x18", "an lz4 file"),
    (0, b"\x02\x21\x4c\x18", "an lz4 file"),
    (0, b"\xff\x06\0\0sNaPpY", "a Snappy file"),
    (0, b"\x1f\x9d", "a compress (.Z) file"),
    (0, b"\x1f\xa0", "a compress (.Z) file"),
    (0, b"LZIP", "an lzip file"),
    (0, b"\x5d\0\0", "an lzma file"),
    (0, b"\x89LZO\0", "an lzop file"),
    (257, b"ustar", "a tar archive"),
    (0, b"ARROW1", "an Arrow (Feather) file"),
    (0, b"FEA1", "a Feather (version 1) file"),
    (0, b"ORC", "an ORC file"),
    (0, b"Obj\x01", "an Avro file"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (8, b"DUCK", "a DuckDB database"),
    (0, b"\x93NUMPY", "a NumPy array (.npy)"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"CDF\x01", "a NetCDF file"),
    (0, b"CDF\x02", "a NetCDF file"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (.xls or .doc)"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"{\\rtf", "an RTF document"),
    (0, b"RDX2\n", "an R data file"),
    (0, b"RDX3\n", "an R data file"),
    (0, b"MATLAB 5.0 MAT-file", "a MATLAB file"),
    (0, b"<stata_dta>", "a Stata file"),
    (0, b"$FL2", "an SPSS file"),
    (0, b"GGUF", "a model in GGUF"),
    (0, b"\x7fELF", "a program"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"RIFF", "a RIFF file (sound, video or an image)"),
    (0, b"ID3", "an MP3 file"),
    (0, b"OggS", "an Ogg file"),
    (0, b"\xff\xfe\0\0", "text in UTF-32"),
    (0, b"\0\0\xfe\xff", "text in UTF-32"),
    (0, b"\xff\xfe", "text in UTF-16"),
    (0, b"\xfe\xff", "text in UTF-16"),
];

/// The name of an unsupported format, if the first bytes of a file reveal it.
fn foreign(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return Some(zip(head));
    }
    // Text may begin with these letters: the magic number of the following block decides.
    if head.starts_with(b"BZh")
        && head
            .get(4..10)
            .is_some_and(|next| [&b"1AY&SY"[..], b"\x17\x72\x45\x38\x50\x90"].contains(&next))
    {
        return Some("a bzip2 file");
    }
    let found = FOREIGN
        .iter()
        .find(|(at, magic, _)| head.get(*at..).is_some_and(|head| head.starts_with(magic)));
    if let Some((_, magic, name)) = found {
        // Letters may also begin a text, which has no zero bytes.
        let word = magic.iter().all(u8::is_ascii_alphanumeric);
        if !word || head.contains(&0) {
            return Some(name);
        }
    }
    // A list or a dictionary in protocols 0 and 1, which have no magic number.
    if [&b"(lp0\n"[..], b"(dp0\n", b"]q\0", b"}q\0"].iter().any(|start| head.starts_with(start)) {
        return Some("a pickle");
    }
    // Protocols 2 to 5 name themselves; an opcode ends the frame's header.
    if head.len() > 2 && head[0] == 0x80 && (2..=5).contains(&head[1]) {
        return Some("a pickle");
    }
    if head.starts_with(b"\xff\xff\xff\xff") {
        return Some("an Arrow stream");
    }
    if head.len() > 9 && &head[8..10] == b"{\"" && head[3..8].contains(&0) {
        return Some("a safetensors file");
    }
    let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head).trim_ascii_start();
    let begins =
        |word: &[u8]| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if begins(b"<!doctype html") || begins(b"<html") {
        return Some("a web page");
    }
    let is_tag = text.starts_with(b"<")
        && text.get(1).is_some_and(u8::is_ascii_alphabetic)
        && text.trim_ascii_end().ends_with(b">");
    if begins(b"<?xml") || is_tag {
        return Some("an XML document");
    }
    if is_yaml(text) {
        return Some("a YAML document");
    }
    // In UTF-16, every other byte of a Latin letter is zero.
    let halves = |odd: usize| {
        let start = &head[..head.len().min(64)];
        start.len() > 3 && start.iter().skip(odd).step_by(2).all(|byte| *byte == 0)
    };
    if halves(0) != halves(1) {
        return Some("text in UTF-16");
    }
    if head.contains(&0) {
        return Some("a binary file of an unknown kind");
    }
    None
}

/// `true` for a text whose first line is YAML's marker of a document, or a list's first key: `- prompt: Hi`.
fn is_yaml(text: &[u8]) -> bool {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    if line == b"---" || line.starts_with(b"%YAML") {
        return true;
    }
    let Some(entry) = line.strip_prefix(b"- ") else { return false };
    let key = entry.iter().position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'));
    let after = key.map_or(&b""[..], |end| &entry[end..]);
    key.is_some_and(|end| end > 0) && (after == b":" || after.starts_with(b": "))
}

/// Zip is the container of many formats; the names of the first entries tell them apart.
fn zip(head: &[u8]) -> &'static str {
    let has = |name: &[u8]| memchr::memmem::find(head, name).is_some();
    if has(b"xl/") || has(b"xl\\") {
        "an Excel workbook (.xlsx)"
    } else if has(b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet") {
        "an OpenDocument spreadsheet (.ods)"
    } else if has(b"word/") {
        "a Word document (.docx)"
    } else if has(b"[Content_Types].xml") {
        "an Office document (.xlsx, .docx or .pptx)"
    } else if has(b"data.pkl") {
        "a file of torch.save"
    } else if has(b".npy") {
        "NumPy arrays (.npz)"
    } else {
        "a zip archive"
    }
}

impl FileFormat {
    /// Recognises a format by the first bytes of the (decompressed) content.
    pub(super) fn recognise(head: &[u8], source_name: &str) -> Result<Self, DataError> {
        if head.starts_with(b"version https://git-lfs.github.com/spec/") {
            return Err(DataError::LfsPointer { source_name: source_name.to_owned() });
        }
        if head.starts_with(b"PAR1") {
            return Ok(Self::Parquet);
        }
        if let Some(what) = foreign(head) {
            return Err(DataError::Foreign { source_name: source_name.to_owned(), what });
        }
        let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
        match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
            None => Err(DataError::Empty { source_name: source_name.to_owned() }),
            Some(b'{') => Ok(Self::JsonLines),
            Some(b'[') => Ok(Self::JsonArray),
            Some(_) => {
                let line = text.trim_ascii_start().split(|&byte| byte == b'\n').next();
                let line = line.unwrap_or_default();
                // A header without a comma may use another separator.
                for (separator, what) in [
                    (b'\t', "text with tabs between the columns (TSV)"),
                    (b';', "text with semicolons between the columns"),
                    (b'|', "text with vertical bars between the columns"),
                ] {
                    if line.contains(&separator) && !line.contains(&b',') {
                        let source_name = source_name.to_owned();
                        return Err(DataError::Foreign { source_name, what });
                    }
                }
                Ok(Self::Csv)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_content() {
        for (head, format) in [
            (&b"{\"a\":1}"[..], FileFormat::JsonLines),
            (b"\xef\xbb\xbf \n{\"a\":1}", FileFormat::JsonLines),
            (b"  [\n{", FileFormat::JsonArray),
            (b"id,dialogue\n", FileFormat::Csv),
            (b"\"id\",\"dialogue\"\n", FileFormat::Csv),
            (b"PAR1\x15\x04", FileFormat::Parquet),
            // Letters that are also the magic number of another format.
            (b"ORCHID,colour\n", FileFormat::Csv),
            (b"ID3,name\n", FileFormat::Csv),
            (b"BZh9,name\n", FileFormat::Csv),
            (b"GGUF,name\n", FileFormat::Csv),
            (b"- ,name\n", FileFormat::Csv),
            (b"---,name\n", FileFormat::Csv),
        ] {
            assert_eq!(FileFormat::recognise(head, "f").unwrap(), format);
        }
    }
}
