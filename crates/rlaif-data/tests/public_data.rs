//! Public data that the project does not ship: every row of every file loads.
//!
//! `RLAIF_DATA=$PWD/folder cargo test -p rlaif-data --test public_data -- --ignored`

use std::path::PathBuf;

use rlaif_core::Seed;
use rlaif_data::corpora::{DialogSum, DivergencePoint, Hh, PairColumns, Typed};
use rlaif_data::{Dataset, Fraction, Reader, Source};
use serde::Deserialize;

const WHY: &str = "needs the folder that RLAIF_DATA names";

fn file(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("RLAIF_DATA").expect(WHY)).join(name)
}

fn reader(name: &str) -> Reader {
    Reader::new(Source::file(file(name)).unwrap())
}

#[derive(Deserialize)]
struct HhRow {
    prompt: String,
    chosen: String,
    rejected: String,
    #[serde(default)]
    multi_turn_tail: bool,
}

#[derive(Deserialize)]
struct Labelled {
    text: String,
    label: u8,
    src: String,
}

/// Rows as serde_json reads the lines of the file: another way to the same.
fn lines<T: serde::de::DeserializeOwned>(name: &str) -> Vec<T> {
    let text = std::fs::read_to_string(file(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
#[ignore = "needs the folder that RLAIF_DATA names"]
fn every_hh_row_loads_and_its_parts_put_together_are_the_source() {
    let rows: Vec<HhRow> = lines("hh/train.jsonl");
    let read = reader("hh/train.jsonl").dataset(Hh::default()).unwrap();
    assert_eq!(read.len(), rows.len());
    assert!(!rows.is_empty());

    // The space that the published dialogues have before a response may be part of it.
    let joined = |prompt: &str, end: &str| {
        let space = if end.starts_with(' ') { "" } else { " " };
        format!("{prompt}{space}{end}")
    };
    // The same rows as published: two whole dialogues each.
    let folder = tempfile::tempdir().unwrap();
    let published = folder.path().join("hh.jsonl");
    let whole = |row: &HhRow| {
        let [chosen, rejected] = [&row.chosen, &row.rejected].map(|end| joined(&row.prompt, end));
        serde_json::json!({"chosen": chosen, "rejected": rejected}).to_string() + "\n"
    };
    std::fs::write(&published, rows.iter().map(whole).collect::<String>()).unwrap();
    let read_whole = Reader::new(Source::file(published).unwrap()).dataset(Hh::default()).unwrap();

    let mut earlier = 0;
    for ((row, apart), whole) in rows.iter().zip(read.records()).zip(read_whole.records()) {
        let source = joined(&row.prompt, &row.chosen);
        assert_eq!(apart.dialogue(), source);
        assert_eq!(whole.dialogue(), source);
        assert_eq!(
            [whole.pair.prompt.as_str(), &whole.pair.rejected].concat(),
            joined(&row.prompt, &row.rejected)
        );
        let turns: String = rlaif_data::turns::parse(&source)
            .unwrap()
            .map(|turn| format!("{}{}", turn.speaker.marker(), turn.text))
            .collect();
        assert_eq!(turns, source);
        earlier += usize::from(apart.divergence == DivergencePoint::Earlier);
        assert!(apart.divergence == DivergencePoint::Earlier || !row.multi_turn_tail);
    }
    let noted = &read.provenance().steps[0].noted;
    let parts = noted.get("the dialogues part before the last turn").copied().unwrap_or(0);
    assert_eq!(parts, earlier as u64);
    println!("{}", read.provenance());
    println!("{}", read_whole.provenance());

    let before = read.len();
    let split = read
        .split_by(Fraction::new(0.2).unwrap(), Seed::new(42), |record| record.first_turn().into())
        .unwrap();
    assert_eq!(split.train.len() + split.held_out.len(), before);
}

#[test]
#[ignore = "needs the folder that RLAIF_DATA names"]
fn every_row_of_the_other_files_loads() {
    for name in ["summ/train.jsonl", "summ/val.jsonl"] {
        let read = reader(name).dataset(DialogSum).unwrap();
        assert_eq!(read.len(), lines::<serde_json::Value>(name).len());
        assert!(read.records().iter().all(|row| !row.dialogue.is_empty()));
    }
    for name in ["tox/train.jsonl", "tox/val.jsonl"] {
        let read: Dataset<Labelled> = reader(name).dataset(Typed::new()).unwrap();
        let expected: Vec<Labelled> = lines(name);
        assert_eq!(read.len(), expected.len());
        for (read, expected) in read.records().iter().zip(&expected) {
            assert_eq!(
                (&read.text, read.label, &read.src),
                (&expected.text, expected.label, &expected.src)
            );
        }
    }
    let name = "prefs/paradetox_pairs.jsonl";
    let pairs = reader(name).dataset(PairColumns::default()).unwrap();
    assert_eq!(pairs.len(), lines::<serde_json::Value>(name).len());
}
