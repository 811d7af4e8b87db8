//! Files of rows.

use std::io::Write;
use std::path::Path;

use rlaif::data::{Import, Mode, Reader, ReadingProgress, Source};

use crate::files::{files_of, outcome, put, told};

const IMPORTS: &str = "crates/rlaif-data/tests/fixtures/import";
const FORMATS: &str = "crates/rlaif-data/tests/fixtures/formats";

pub(crate) fn lines() -> Vec<Vec<u8>> {
    let mut all = files_of(IMPORTS, ".jsonl", 1 << 14);
    all.extend(files_of(FORMATS, ".jsonl", 1 << 14));
    all.extend(files_of("crates/rlaif-data/tests/fixtures/exams", ".jsonl", 1 << 14));
    all
}

pub(crate) fn tables() -> Vec<Vec<u8>> {
    let mut all = files_of(IMPORTS, ".csv", 1 << 16);
    all.extend(files_of(FORMATS, ".csv", 1 << 16));
    all
}

pub(crate) fn parquets() -> Vec<Vec<u8>> {
    let mut all = files_of(FORMATS, ".parquet", 1 << 16);
    all.extend(files_of(IMPORTS, ".parquet", 1 << 15));
    all
}

pub(crate) fn gzips() -> Vec<Vec<u8>> {
    let packed = |input: &Vec<u8>| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(input).expect("memory");
        out.finish().expect("memory")
    };
    lines().iter().take(4).map(packed).collect()
}

pub(crate) fn zstds() -> Vec<Vec<u8>> {
    // A frame of one raw block, as RFC 8878 has it.
    let frame = |input: &Vec<u8>| {
        let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x60];
        out.extend_from_slice(&((input.len() - 256) as u16).to_le_bytes());
        out.extend_from_slice(&((input.len() as u32) << 3 | 1).to_le_bytes()[..3]);
        out.extend_from_slice(input);
        out
    };
    lines().iter().filter(|input| (256..60_000).contains(&input.len())).take(4).map(frame).collect()
}

pub(crate) fn rows(input: &[u8], place: &Path) -> String {
    put(place, "rows", input);
    let source = match Source::file(place.join("rows")) {
        Ok(source) => source,
        Err(error) => return told(&error),
    };
    let reader =
        || Reader::new(source.clone()).mode(Mode::Lenient).progress(ReadingProgress::Silent);
    match Import::find(&source) {
        Ok(import) => {
            let read = [
                outcome(import.pairs(reader())),
                outcome(import.demonstrations(reader())),
                outcome(import.prompts(reader())),
                outcome(import.unpaired(reader())),
                outcome(import.labelled(reader())),
            ];
            read.join(" ")
        }
        Err(error) => told(&error),
    }
}
