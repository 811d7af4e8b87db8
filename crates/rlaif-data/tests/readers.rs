//! Every format, plain and compressed, gives the same rows.

mod common;

use std::sync::{Arc, Mutex};

use common::{Folder, gzip, parquet, zstd};
use proptest::prelude::*;
use rlaif_data::corpora::{Corpus, Outcome, PromptColumns, Typed};
use rlaif_data::{DataError, FileFormat, Mode, Reader, ReadingProgress, Row, Source};
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Plain {
    text: String,
    n: i64,
    x: Option<f64>,
}

/// Reads a row by name and type, which unlike serde also parses numbers from CSV text.
struct ByName;

impl Corpus for ByName {
    type Record = Plain;

    fn name(&self) -> String {
        "rows".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<Plain>, DataError> {
        Ok(Outcome::Kept(Plain {
            text: row.text("text")?,
            n: row.number("n")? as i64,
            x: row.optional_number("x")?,
        }))
    }
}

fn rows(count: usize) -> Vec<Plain> {
    (0..count)
        .map(|n| Plain {
            text: match n % 5 {
                0 => format!("\n\nHuman: \"héllo\" {n},\r\n\nAssistant: [{{}}] \\ 🙂"),
                1 => String::new(),
                2 => "x".repeat(n % 997),
                3 => format!("]}},\"{n}"),
                _ => format!("row {n}"),
            },
            n: n as i64,
            x: (n % 3 > 0).then_some(n as f64 / 8.0),
        })
        .collect()
}

fn json(row: &Plain) -> String {
    serde_json::json!({"text": row.text, "n": row.n, "x": row.x}).to_string()
}

fn json_lines(rows: &[Plain]) -> Vec<u8> {
    rows.iter().map(|row| json(row) + "\n").collect::<String>().into_bytes()
}

fn json_array(rows: &[Plain]) -> Vec<u8> {
    let rows: Vec<_> = rows.iter().map(json).collect();
    format!(" [\n{}\n]\n", rows.join(" ,\n  ")).into_bytes()
}

fn csv(rows: &[Plain]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["n", "text", "x"]).unwrap();
    for row in rows {
        let x = row.x.map(|x| x.to_string()).unwrap_or_default();
        writer.write_record([row.n.to_string().as_str(), &row.text, &x]).unwrap();
    }
    writer.into_inner().unwrap()
}

fn in_parquet(rows: &[Plain]) -> Vec<u8> {
    parquet(&rows.iter().map(|row| (row.text.clone(), row.n, row.x)).collect::<Vec<_>>())
}

fn sha256(content: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_format_and_compression_gives_the_same_rows_and_the_hash_of_the_file() {
    // Several megabytes, so that rows cross the borders of chunks.
    let expected = rows(12_000);
    let folder = Folder::new();
    let formats =
        [json_lines(&expected), json_array(&expected), csv(&expected), in_parquet(&expected)];
    assert!(formats[..3].iter().all(|content| content.len() > 1_200_000));
    for (at, content) in formats.iter().enumerate() {
        for (how, stored) in
            [("plain", content.clone()), ("gz", gzip(content)), ("zst", zstd(content))]
        {
            // The name gives no information: the content decides.
            let path = folder.write(&format!("{at}-{how}"), &stored);
            let read = Reader::new(Source::file(path).unwrap()).dataset(ByName).unwrap();
            assert!(read.records() == expected, "format {at}, {how}");
            let origin = &read.provenance().origins[0];
            assert_eq!(origin.sha256.as_deref(), Some(sha256(&stored).as_str()));
            assert_eq!(origin.bytes, Some(stored.len() as u64));
            assert_eq!(read.provenance().steps[0].kept, 12_000);
        }
    }
}

#[test]
fn gzip_members_one_after_another_are_one_file() {
    let expected = rows(100);
    let mut stored = gzip(&json_lines(&expected[..40]));
    stored.extend(gzip(&json_lines(&expected[40..])));
    let path = Folder::new();
    let path = (path.write("a.gz", stored), path);
    let read = Reader::new(Source::file(&path.0).unwrap()).dataset(ByName).unwrap();
    assert_eq!(read.records(), expected);
}

#[test]
fn serde_types_read_json_and_parquet() {
    let expected = rows(10);
    let folder = Folder::new();
    for content in [json_lines(&expected), in_parquet(&expected)] {
        let path = folder.write("f", content);
        let reader = Reader::new(Source::file(path).unwrap());
        assert_eq!(reader.dataset(Typed::<Plain>::new()).unwrap().records(), expected);
    }
}

#[test]
fn a_glob_reads_its_files_in_order_and_names_each_in_the_provenance() {
    let folder = Folder::new();
    let expected = rows(30);
    folder.write("b.jsonl", json_lines(&expected[10..20]));
    folder.write("a.csv", csv(&expected[..10]));
    folder.write("c.parquet.zst", zstd(&in_parquet(&expected[20..])));
    let source = Source::glob(&format!("{}/*", folder.path().display())).unwrap();
    let read = Reader::new(source).dataset(ByName).unwrap();
    assert_eq!(read.records(), expected);
    assert_eq!(read.provenance().origins.len(), 3);
    assert!(read.provenance().origins[0].source.ends_with("a.csv"));
}

#[test]
fn byte_order_mark_blank_lines_and_windows_line_ends_are_no_rows() {
    let folder = Folder::new();
    let lines = b"\xef\xbb\xbf\r\n{\"prompt\":\"a\"}\r\n\r\n  \n{\"prompt\":\"b\"}";
    let csv = b"\xef\xbb\xbfprompt,n\r\na,1\r\n\r\nb,2\r\n";
    for content in [&lines[..], csv] {
        let path = folder.write("f", content);
        let read = Reader::new(Source::file(path).unwrap()).dataset(PromptColumns::default());
        let prompts: Vec<_> =
            read.unwrap().into_records().into_iter().map(|record| record.prompt).collect();
        assert_eq!(prompts, ["a", "b"]);
    }
}

#[test]
fn a_quote_within_an_unquoted_field_does_not_swallow_what_follows() {
    let folder = Folder::new();
    let path = folder.write("f.csv", "prompt,n\n5\" pipe,1\n\"two\nlines\",2\nthree,3\n");
    let read = Reader::new(Source::file(path).unwrap()).dataset(PromptColumns::default()).unwrap();
    let prompts: Vec<_> = read.records().iter().map(|record| record.prompt.as_str()).collect();
    assert_eq!(prompts, ["5\" pipe", "two\nlines", "three"]);
}

#[test]
fn a_format_can_be_given_where_content_misleads() {
    let folder = Folder::new();
    let path = folder.write("f", "[prompt],prompt\n1,hello\n");
    let reader = Reader::new(Source::file(path).unwrap());
    assert!(reader.clone().dataset(PromptColumns::default()).is_err());
    let read = reader.format(FileFormat::Csv).dataset(PromptColumns::default()).unwrap();
    assert_eq!(read.records()[0].prompt, "hello");
}

#[test]
fn progress_reaches_the_end_and_never_goes_back() {
    let folder = Folder::new();
    let content = gzip(&json_lines(&rows(12_000)));
    let path = folder.write("f.gz", &content);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let progress =
        ReadingProgress::Callback(Arc::new(move |update| sink.lock().unwrap().push(update)));
    Reader::new(Source::file(path).unwrap()).progress(progress).dataset(ByName).unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.len() > 1);
    assert!(
        seen.windows(2).all(|pair| pair[0].bytes <= pair[1].bytes && pair[0].rows < pair[1].rows)
    );
    let last = seen.last().unwrap();
    assert_eq!(
        (last.bytes, last.total_bytes, last.rows),
        (content.len() as u64, content.len() as u64, 12_000)
    );
}

#[test]
fn a_stream_can_be_left_early() {
    let folder = Folder::new();
    let path = folder.write("f", json_lines(&rows(12_000)));
    let mut stream = Reader::new(Source::file(path).unwrap()).stream(ByName);
    assert_eq!(stream.next().unwrap().unwrap().n, 0);
    drop(stream);
}

#[test]
fn reading_within_a_pool_of_one_worker_does_not_wait_for_itself() {
    // All workers of the global pool read here at once.
    let folder = Folder::new();
    let path = folder.write("f", json_lines(&rows(12_000)));
    let counts: Vec<usize> = rayon::broadcast(|_| {
        Reader::new(Source::file(&path).unwrap()).dataset(ByName).unwrap().len()
    });
    assert!(counts.iter().all(|count| *count == 12_000));
}

struct Panicking;

impl Corpus for Panicking {
    type Record = ();

    fn name(&self) -> String {
        "panics".to_owned()
    }

    fn record(&self, _: Row<'_>) -> Result<Outcome<()>, DataError> {
        panic!("a corpus of the caller's")
    }
}

#[test]
#[should_panic(expected = "a corpus of the caller's")]
fn a_corpus_that_panics_panics_in_its_caller() {
    let folder = Folder::new();
    let path = folder.write("f", json_lines(&rows(3)));
    let _ = Reader::new(Source::file(path).unwrap()).dataset(Panicking);
}

/// Reads any content, in every format and mode; the test is that it returns.
fn survives(content: &[u8]) {
    let folder = Folder::new();
    let path = folder.write("f", content);
    for format in
        [None, Some(FileFormat::JsonLines), Some(FileFormat::JsonArray), Some(FileFormat::Csv)]
    {
        for mode in [Mode::Strict, Mode::Lenient] {
            let mut reader = Reader::new(Source::file(&path).unwrap()).mode(mode);
            if let Some(format) = format {
                reader = reader.format(format);
            }
            let _ = reader.clone().dataset(PromptColumns::default());
            let _ = reader.dataset(rlaif_data::corpora::Hh::default());
        }
    }
}

fn damaged(mut content: Vec<u8>, damage: &[(u16, u8)], keep: u16) -> Vec<u8> {
    for (at, byte) in damage {
        let at = usize::from(*at) % content.len();
        content[at] = *byte;
    }
    content.truncate((usize::from(keep) + content.len() / 2).min(content.len()));
    content
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_a_reader_panic(content in proptest::collection::vec(any::<u8>(), 0..300)) {
        survives(&content);
    }

    #[test]
    fn no_text_of_brackets_and_quotes_makes_a_reader_panic(text in "[\\[\\]{}\",:a1\\\\ \n\r\u{e9}]{0,60}") {
        survives(text.as_bytes());
    }

    #[test]
    fn no_damage_to_a_file_makes_a_reader_panic(
        which in 0usize..6, damage in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..6), keep: u16
    ) {
        let rows = rows(40);
        let content = match which {
            0 => json_lines(&rows),
            1 => json_array(&rows),
            2 => csv(&rows),
            3 => in_parquet(&rows),
            4 => gzip(&json_lines(&rows)),
            _ => zstd(&in_parquet(&rows)),
        };
        survives(&damaged(content, &damage, keep));
    }

    #[test]
    fn json_arrays_are_cut_where_serde_cuts_them(
        elements in proptest::collection::vec("[\\[\\]{}\",:a\\\\ \n\u{e9}]{0,20}", 1..6)
    ) {
        let objects: Vec<_> =
            elements.iter().map(|text| serde_json::json!({"prompt": text, "more": [{"a": text}]})).collect();
        let folder = Folder::new();
        let path = folder.write("f", serde_json::to_string_pretty(&objects).unwrap());
        let read = Reader::new(Source::file(path).unwrap()).dataset(PromptColumns::default()).unwrap();
        let prompts: Vec<_> = read.into_records().into_iter().map(|record| record.prompt).collect();
        prop_assert_eq!(prompts, elements);
    }
}
