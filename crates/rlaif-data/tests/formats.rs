//! Files as Python writes them (`fixtures/export.py`), and files that are not read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rlaif_data::corpora::{DemonstrationColumns, PromptColumns, Typed};
use rlaif_data::{DataError, Reader, Source};
use serde_json::{Map, Value};

fn formats() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats")
}

fn reader(path: impl AsRef<Path>) -> Reader {
    Reader::new(Source::file(path).unwrap())
}

#[test]
fn every_codec_of_parquet_and_every_byte_order_mark_is_read() {
    for name in [
        "none.parquet",
        "snappy.parquet",
        "gzip.parquet",
        "brotli.parquet",
        "lz4.parquet",
        "zstd.parquet",
        "bom.jsonl",
        "bom.csv",
    ] {
        let rows = reader(formats().join(name)).dataset(DemonstrationColumns::default());
        let rows = rows.unwrap_or_else(|error| panic!("{name}: {error}"));
        let found: Vec<_> =
            rows.records().iter().map(|row| (row.prompt.as_str(), row.response.as_str())).collect();
        let expected = [("p0", "r0"), ("p1", "r1"), ("p2", "r2"), ("p3", "r3"), ("p4", "r4")];
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn numbers_that_are_not_finite_hurt_only_who_reads_them() {
    for name in ["python.jsonl", "python.json"] {
        let path = formats().join(name);
        let rows = reader(&path).dataset(DemonstrationColumns::default()).unwrap();
        let texts: Vec<&str> = rows.records().iter().map(|row| row.response.as_str()).collect();
        assert_eq!(texts, ["NaN", "-Infinity", "x"], "{name}");
        let columns = PromptColumns { metadata: vec!["score".into()], ..PromptColumns::default() };
        let rows = reader(&path).dataset(columns).unwrap();
        assert!(!rows.records()[0].metadata.contains_key("score"));
        assert_eq!(rows.records()[2].metadata["score"], 1.5);
        let rows = reader(&path).dataset(Typed::<Map<String, Value>>::new()).unwrap();
        assert_eq!(rows.records()[1]["x"], serde_json::json!([null]));
    }
    // Where it is needed, it is named with its row.
    let needed = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        std::fs::write(&path, text).unwrap();
        let columns = rlaif_data::corpora::PairColumns {
            margin: Some("margin".into()),
            ..rlaif_data::corpora::PairColumns::default()
        };
        reader(&path).dataset(columns).unwrap_err().to_string()
    };
    for word in ["NaN", "Infinity", "-Infinity"] {
        let fine = r#"{"prompt":"p","chosen":"c","rejected":"r","margin":null}"#;
        let row = format!(r#"{{"prompt":"p","chosen":"c","rejected":"r","margin":{word}}}"#);
        let message = needed(&format!("{fine}\n{row}\n"));
        let expected = format!("line 2: `margin` should be a finite number, but is {word}");
        assert!(message.ends_with(&expected), "{message}");
        let row = format!(r#"{{"prompt":{word},"chosen":"c","rejected":"r","margin":1}}"#);
        let expected = format!("line 1: `prompt` should be a string, but is {word}");
        assert!(needed(&row).ends_with(&expected));
    }
}

#[test]
fn files_of_other_formats_are_named() {
    let foreign = std::fs::read(formats().join("foreign.json")).unwrap();
    let foreign: BTreeMap<String, String> = serde_json::from_slice(&foreign).unwrap();
    for (name, what) in foreign {
        let error = reader(formats().join(&name)).dataset(PromptColumns::default()).unwrap_err();
        assert!(matches!(error, DataError::Foreign { .. }), "{name}: {error}");
        let message = error.to_string();
        assert!(
            message.contains(&format!("is {what}, which is not supported")),
            "{name}: {message}"
        );
        assert!(message.contains("JSON Lines, a JSON array, CSV with commas or Parquet"));
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_at_once() {
    let error = Source::file("/dev/zero").unwrap_err();
    assert_eq!(error.to_string(), "/dev/zero is a device, not a file; save its output to a file");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let error = Source::file(&path).unwrap_err();
    assert!(error.to_string().contains("is a named pipe, not a file"), "{error}");
}
