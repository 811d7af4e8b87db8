//! Files and tokenizers for the tests.
#![allow(dead_code, reason = "every test file uses its own part of these")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use rlaif_core::{CodecError, GenerationPrompt, Message, Specials, TextCodec};

/// A folder of files that goes when it is dropped.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

/// Rows of a text, a whole number and an optional number, as Parquet.
pub(crate) fn parquet(rows: &[(String, i64, Option<f64>)]) -> Vec<u8> {
    let schema = parse_message_type(
        "message rows { required binary text (UTF8); required int64 n; optional double x; }",
    );
    // Small groups, so that reading crosses from one to the next.
    let properties =
        WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut out = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut out, Arc::new(schema.unwrap()), Arc::new(properties))
            .unwrap();
    for group in rows.chunks(700) {
        let mut columns = writer.next_row_group().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        let texts: Vec<_> = group.iter().map(|row| ByteArray::from(row.0.as_str())).collect();
        column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
        column.close().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        let numbers: Vec<_> = group.iter().map(|row| row.1).collect();
        column.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap();
        column.close().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        let present: Vec<_> = group.iter().filter_map(|row| row.2).collect();
        let levels: Vec<i16> = group.iter().map(|row| i16::from(row.2.is_some())).collect();
        column.typed::<DoubleType>().write_batch(&present, Some(&levels), None).unwrap();
        column.close().unwrap();
        columns.close().unwrap();
    }
    writer.close().unwrap();
    out
}

/// One token for each `per_token` characters, begun or whole, and one special token.
pub(crate) struct Counting {
    pub(crate) per_token: usize,
}

impl TextCodec for Counting {
    fn name(&self) -> &str {
        "counting"
    }

    fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, CodecError> {
        let special = usize::from(specials == Specials::Include);
        Ok(vec![0; text.chars().count().div_ceil(self.per_token) + special])
    }

    fn decode(&self, _: &[u32], _: Specials) -> Result<String, CodecError> {
        unreachable!("data never decodes")
    }

    fn render_chat(
        &self,
        messages: &[Message],
        generation_prompt: GenerationPrompt,
    ) -> Result<String, CodecError> {
        let turns = messages.iter().map(|m| format!("<{}>{}</>", m.role, m.content));
        let header = if generation_prompt == GenerationPrompt::Add { "<assistant>" } else { "" };
        Ok(format!("<bos>{}{header}", turns.collect::<String>()))
    }
}
