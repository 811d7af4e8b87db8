//! A faulty file is refused with a typed error that names the place and the remedy.

mod common;

use common::{Folder, gzip, parquet, zstd};
use rlaif_core::{PromptRecord, Provenance, Seed};
use rlaif_data::corpora::{
    Hh, PairColumns, PromptColumns, RealToxicityPrompts, Typed, UnpairedColumns,
};
use rlaif_data::{
    Compression, DataError, Dataset, Fraction, Mode, PromptTemplate, Reader, Remainder, Shuffle,
    Source, SplitSide,
};

/// The error of reading `content` as prompts.
fn error_of(content: impl AsRef<[u8]>) -> DataError {
    let folder = Folder::new();
    let path = folder.write("prompts.data", content);
    let reader = Reader::new(Source::file(&path).unwrap());
    let error = reader.dataset(PromptColumns::default()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("prompts.data"), "names the file: {message}");
    error
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

#[test]
fn a_git_lfs_pointer_is_called_one() {
    let error = error_of(POINTER);
    assert!(matches!(error, DataError::LfsPointer { .. }));
    assert!(error.to_string().contains("git lfs pull"));
}

#[test]
fn a_gzip_file_that_is_cut_off_is_told_wherever_it_is_cut() {
    let whole = gzip("{\"prompt\":\"a\"}\n".repeat(5_000).as_bytes());
    for keep in [whole.len() - 1, whole.len() - 8, whole.len() / 2, 20] {
        let error = error_of(&whole[..keep]);
        let expected = Compression::Gzip;
        assert!(
            matches!(error, DataError::Truncated { compression, .. } if compression == expected),
            "{keep} bytes: {error}"
        );
    }
}

#[test]
fn a_zstd_file_that_is_cut_off_is_told() {
    let whole = zstd("{\"prompt\":\"a\"}\n".repeat(5_000).as_bytes());
    let error = error_of(&whole[..whole.len() - 5]);
    assert!(
        matches!(error, DataError::Truncated { compression: Compression::Zstd, .. }),
        "{error}"
    );
}

#[test]
fn a_damaged_gzip_file_is_told_and_not_mistaken_for_a_short_one() {
    let mut stored = gzip("{\"prompt\":\"a\"}\n".repeat(5_000).as_bytes());
    let checksum = stored.len() - 6;
    stored[checksum] ^= 0xff;
    let error = error_of(stored);
    assert!(matches!(error, DataError::Damaged { compression: Compression::Gzip, .. }), "{error}");
}

#[test]
fn a_cut_off_file_ends_a_lenient_reading_too() {
    let whole = gzip("{\"prompt\":\"a\"}\n".repeat(5_000).as_bytes());
    let folder = Folder::new();
    let path = folder.write("f", &whole[..whole.len() - 5]);
    let reader = Reader::new(Source::file(path).unwrap()).mode(Mode::Lenient);
    let error = reader.dataset(PromptColumns::default()).unwrap_err();
    assert!(matches!(error, DataError::Truncated { .. }));
}

#[test]
fn text_that_is_not_utf8_is_told_with_the_line_and_the_byte() {
    for content in [
        &b"{\"prompt\":\"a\"}\n{\"prompt\":\"caf\xe9\"}\n"[..],
        b"[{\"prompt\":\"a\"},\n{\"prompt\":\"caf\xe9\"}]",
        b"prompt\ncaf\xe9\n",
    ] {
        let error = error_of(content);
        assert!(matches!(error, DataError::InvalidUtf8 { line: 2, byte: 0xe9, .. }), "{error}");
    }
}

#[test]
fn a_missing_column_is_told_with_the_columns_there_are() {
    let in_parquet = parquet(&[("a".to_owned(), 1, None)]);
    for (content, columns) in [
        (&b"{\"question\":\"a\",\"answer\":\"b\"}\n"[..], "`question`, `answer`"),
        (b"[{\"question\":\"a\",\"answer\":\"b\"}]", "`question`, `answer`"),
        (b"question,answer\na,b\n", "`question`, `answer`"),
        (&in_parquet, "`text`, `n`, `x`"),
    ] {
        let error = error_of(content);
        let DataError::MissingColumn { column, .. } = &error else { panic!("{error}") };
        assert_eq!(column, "prompt");
        assert!(error.to_string().ends_with(&format!("the columns are {columns}")), "{error}");
    }
}

#[test]
fn a_missing_field_of_a_callers_type_is_told_with_the_columns_there_are() {
    #[derive(Debug, serde::Deserialize)]
    struct Labelled {
        #[allow(dead_code, reason = "never read: there is none")]
        label: u8,
    }
    let folder = Folder::new();
    let path = folder.write("f.jsonl", r#"{"text":"a","class":1}"#);
    let error = Reader::new(Source::file(path).unwrap()).dataset(Typed::<Labelled>::new());
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("line 1: missing field `label`; the columns are `text`, `class`"),
        "{message}"
    );
}

const SECOND_AND_FOURTH_WRONG: &str = "{\"prompt\":\"a\"}\n{\"prompt\":7}\n{\"prompt\":\"b\"}\n{\"prompt\":[1]}\n{\"prompt\":\"c\"}\n";

#[test]
fn a_row_of_the_wrong_type_stops_a_strict_reading_after_the_rows_before_it() {
    let error = error_of(SECOND_AND_FOURTH_WRONG);
    assert!(matches!(&error, DataError::WrongType { line: 2, column, .. } if column == "prompt"));
    assert!(
        error.to_string().ends_with("line 2: `prompt` should be a string, but is the number 7")
    );

    let folder = Folder::new();
    let path = folder.write("f", SECOND_AND_FOURTH_WRONG);
    let stream = Reader::new(Source::file(path).unwrap()).stream(PromptColumns::default());
    let items: Vec<_> = stream.map(|item| item.map(|record| record.prompt).ok()).collect();
    assert_eq!(items, [Some("a".to_owned()), None], "it ends there");
}

#[test]
fn a_lenient_reading_goes_on_counts_and_shows_the_first_few() {
    let folder = Folder::new();
    let path = folder.write("f", SECOND_AND_FOURTH_WRONG.repeat(10));
    let reader = Reader::new(Source::file(path).unwrap()).mode(Mode::Lenient);
    let read = reader.dataset(PromptColumns::default()).unwrap();
    let prompts: String = read.records().iter().map(|record| record.prompt.as_str()).collect();
    assert_eq!(prompts, "abc".repeat(10));
    let step = &read.provenance().steps[0];
    assert_eq!((step.kept, step.dropped["malformed row"]), (30, 20));
    assert_eq!(step.examples.len(), 5);
    assert!(step.examples[0].contains("line 2: `prompt` should be a string"));
    assert!(step.examples[4].contains("line 12: `prompt`"), "{}", step.examples[4]);
}

#[test]
fn rows_of_every_format_name_the_line_they_begin_on() {
    let rows: Vec<_> =
        (0..3_000i64).map(|n| (format!("{n}"), n, (n != 2_500).then_some(n as f64))).collect();
    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code, reason = "reading it is the point")]
    struct Complete {
        x: f64,
    }
    let folder = Folder::new();
    let path = folder.write("f.parquet", parquet(&rows));
    let error = Reader::new(Source::file(path).unwrap()).dataset(Typed::<Complete>::new());
    let error = error.unwrap_err();
    assert!(matches!(error, DataError::Deserialize { line: 2_501, .. }), "{error}");

    let error = error_of("[\n {\"prompt\": \"a\"},\n\n {\"prompt\":\n 3}\n]");
    assert!(matches!(error, DataError::WrongType { line: 4, .. }), "{error}");
    for line_end in ["\n", "\r\n"] {
        let csv = ["prompt,n", "\"a", "b\",1", "", "c,2,3", ""].join(line_end);
        let error = error_of(csv);
        let expected =
            DataError::CsvFields { source_name: String::new(), line: 5, expected: 2, found: 3 };
        assert_eq!(
            error.to_string().rsplit(", line").next(),
            expected.to_string().rsplit(", line").next()
        );
    }
}

#[test]
fn rows_that_are_no_objects_are_of_the_wrong_type_and_half_objects_no_json() {
    let error = error_of("{\"prompt\":\"a\"}\n\"b\"\n");
    assert!(matches!(&error, DataError::WrongType { line: 2, column, .. } if column == "row"));
    let error = error_of("[1]");
    assert!(matches!(&error, DataError::WrongType { line: 1, .. }), "{error}");
    let error = error_of("{\"prompt\":\"a\"}\n{\"prompt\":\n");
    assert!(matches!(&error, DataError::Json { line: 2, .. }), "{error}");
}

#[test]
fn a_json_array_that_never_ends_is_told_after_its_rows() {
    for (content, expected) in [
        ("[{\"prompt\":\"a\"},\n", "a row"),
        ("[{\"prompt\":\"a\"}\n", "a `,` or the closing `]`"),
        ("[{\"prompt\":\"a", "the rest of the row"),
        ("[{\"prompt\":\"a\"}] {", "nothing behind the array"),
        ("[{\"prompt\":\"a\"} {\"prompt\":\"b\"}]", "a `,` or the closing `]`"),
    ] {
        let error = error_of(content);
        assert!(
            matches!(&error, DataError::JsonArray { expected: what, .. } if *what == expected),
            "{content}: {error}"
        );
    }
}

#[test]
fn a_csv_quote_that_never_closes_is_told_with_its_row() {
    let error = error_of("prompt,n\na,1\n\"b,2\nc,3\n");
    assert!(matches!(error, DataError::CsvQuote { line: 3, .. }), "{error}");
}

#[test]
fn a_row_without_end_does_not_fill_the_memory() {
    // 80 MB of one row, in a compressed file of 80 kB.
    let mut row = b"{\"prompt\":\"".to_vec();
    row.resize(80 << 20, b'a');
    let error = error_of(gzip(&row));
    assert!(matches!(error, DataError::RowTooLong { line: 1, .. }), "{error}");
}

#[test]
fn one_line_that_is_no_row_is_named_as_a_header() {
    for (content, line) in [
        (&b"prompt,n\n"[..], "prompt,n"),
        (b"x = [{\"prompt\": \"a\"}]\n", "x = [{\"prompt\": \"a\"}]"),
        (b"\xef\xbb\xbf\nprompt: a", "prompt: a"),
    ] {
        for error in [error_of(content), error_of(gzip(content))] {
            assert!(matches!(&error, DataError::HeaderAlone { header, .. } if header == line));
            assert!(error.to_string().contains("neither `{` (JSON Lines) nor `[`"), "{error}");
        }
    }
    for (content, what) in [
        (&b"<rows><row/></rows>\n"[..], "an XML document"),
        (b"- prompt: Hi\n  response: Hello.\n", "a YAML document"),
        (b"---\nprompt: Hi\n", "a YAML document"),
        (b"(lp0\n(dp1\nVprompt\n", "a pickle"),
        (b"prompt|n\na|1\n", "text with vertical bars between the columns"),
    ] {
        let error = error_of(content);
        assert!(
            matches!(error, DataError::Foreign { what: found, .. } if found == what),
            "{error}"
        );
    }
}

#[test]
fn a_file_without_rows_is_empty() {
    let none = parquet(&[]);
    for content in [&b""[..], b" \n\n", b"[]", b" [ ] ", b"\xef\xbb\xbf", &none] {
        let error = error_of(content);
        assert!(matches!(error, DataError::Empty { .. }), "{error}");
        let error = error_of(gzip(content));
        assert!(matches!(error, DataError::Empty { .. }), "{error}");
    }
}

#[test]
fn rows_of_which_none_becomes_a_record_are_told_with_the_first_reason() {
    let folder = Folder::new();
    let path = folder.write("f", "{\"question\":1}\n".repeat(7));
    let reader = Reader::new(Source::file(path).unwrap()).mode(Mode::Lenient);
    let error = reader.dataset(PromptColumns::default()).unwrap_err();
    let DataError::NoRecords { rows: 7, malformed: 7, first: Some(first), .. } = error else {
        panic!("{error}")
    };
    assert!(matches!(*first, DataError::MissingColumn { .. }));
}

#[test]
fn damaged_parquet_is_told() {
    let mut content = parquet(&[("a".to_owned(), 1, None)]);
    content.truncate(content.len() - 20);
    let error = error_of(content);
    assert!(matches!(error, DataError::Parquet { .. }), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn files_that_are_not_there_are_told_before_anything_is_read() {
    let folder = Folder::new();
    let missing = Source::file(folder.path().join("missing.jsonl")).unwrap_err();
    assert!(matches!(&missing, DataError::Io { .. }));
    assert!(missing.to_string().contains("missing.jsonl"));
    let error = Source::file(folder.path()).unwrap_err();
    assert!(matches!(error, DataError::Folder { .. }));
    let pattern = format!("{}/*.jsonl", folder.path().display());
    assert!(matches!(Source::glob(&pattern).unwrap_err(), DataError::NoMatch { .. }));
    assert!(matches!(Source::glob("a/***").unwrap_err(), DataError::Pattern { .. }));
}

#[test]
fn wrong_values_in_corpora_name_the_field() {
    let folder = Folder::new();
    let read = |content: &str| {
        let path = folder.write("f.jsonl", content);
        Reader::new(Source::file(path).unwrap())
    };
    let message = read(r#"{"prompt":{"text":"a","toxicity":"high"},"continuation":{"text":"b"},"challenging":true}"#)
        .dataset(RealToxicityPrompts)
        .unwrap_err()
        .to_string();
    assert!(
        message
            .ends_with(r#"`prompt.toxicity` should be a number or null, but is the string "high""#),
        "{message}"
    );
    let columns = PairColumns { margin: Some("margin".into()), ..PairColumns::default() };
    let message = read(r#"{"prompt":"a","chosen":"b","rejected":"c","margin":"wide"}"#)
        .dataset(columns)
        .unwrap_err()
        .to_string();
    assert!(message.contains("`margin` should be a finite number"), "{message}");
    let message = read(r#"{"prompt":"a","completion":"b","label":"good"}"#)
        .dataset(UnpairedColumns::default())
        .unwrap_err()
        .to_string();
    assert!(message.contains("`label` should be true or false"), "{message}");
    let message = read(r#"{"chosen":"Hello","rejected":"Hi"}"#)
        .dataset(Hh::default())
        .unwrap_err()
        .to_string();
    assert!(message.contains("`chosen` is not a dialogue"), "{message}");
}

fn three_prompts() -> Dataset<PromptRecord> {
    let records = ["a", "b", "c"].map(|id| PromptRecord::new(id, "?")).to_vec();
    Dataset::new(records, Provenance::default())
}

#[test]
fn a_split_that_leaves_a_side_empty_is_refused() {
    for (fraction, expected) in [(1e-9, SplitSide::HeldOut), (1.0 - 1e-9, SplitSide::Train)] {
        let error =
            three_prompts().split(Fraction::new(fraction).unwrap(), Seed::new(1)).unwrap_err();
        assert!(
            matches!(error, DataError::EmptySplit { side, records: 3, .. } if side == expected),
            "{error}"
        );
    }
    for value in [0.0, 1.0, -0.2, f64::NAN] {
        assert!(matches!(Fraction::new(value), Err(DataError::Fraction { .. })));
    }
}

#[test]
fn mixtures_of_nothing_or_with_weights_that_are_none_are_refused() {
    let (some, none) = (three_prompts(), three_prompts().take(0));
    let mix = |sources: &[(f64, &Dataset<PromptRecord>)]| {
        Dataset::mixture(sources, 4, Seed::new(1)).unwrap_err()
    };
    assert!(matches!(mix(&[]), DataError::NothingToDraw { .. }));
    assert!(matches!(mix(&[(1.0, &some), (1.0, &none)]), DataError::NothingToDraw { .. }));
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = mix(&[(1.0, &some), (weight, &some)]);
        assert!(matches!(error, DataError::Weight { index: 1, .. }), "{error}");
    }
}

#[test]
fn orders_refuse_what_they_cannot_do() {
    let records = three_prompts().into_records();
    assert!(matches!(
        Shuffle::new::<PromptRecord>(&[], Seed::new(1)),
        Err(DataError::NothingToDraw { .. })
    ));
    let mut order = Shuffle::new(&records, Seed::new(1)).unwrap();
    let four = 4.try_into().unwrap();
    let error = order.next_batch(four, Remainder::Drop).unwrap_err();
    assert!(matches!(error, DataError::BatchTooLarge { size: 4, records: 3 }));
    assert!(matches!(
        order.clone().by_length(vec![1], four, four),
        Err(DataError::Lengths { lengths: 1, records: 3 })
    ));
    for other in [
        Shuffle::new(&records, Seed::new(2)).unwrap(),
        Shuffle::new(&records[..2], Seed::new(1)).unwrap(),
        order.clone().by_length(vec![1, 2, 3], four, four).unwrap(),
    ] {
        assert!(matches!(order.resume(&other.position()), Err(DataError::Position { .. })));
    }
    let beyond = rlaif_data::Position { at: 4, ..order.position() };
    assert!(order.resume(&beyond).is_err());
}

#[test]
fn a_template_has_exactly_one_slot() {
    for (text, found) in [("Summarise.", 0), ("{dialogue} {dialogue}", 2)] {
        let error = PromptTemplate::new(text).unwrap_err();
        assert!(matches!(error, DataError::TemplateSlot { found: n } if n == found), "{error}");
    }
}
