//! Reads HH preference pairs, parses every dialogue into turns, filters by length and splits;
//! prints how long each part took as one line of JSON.
//!
//! `cargo run --release -p rlaif-data --example hh_speed -- hh.jsonl.gz`

use std::time::Instant;

use rlaif_core::{Conversation, Seed};
use rlaif_data::corpora::{DIALOGUE_CHARACTERS, Hh, HhRecord};
use rlaif_data::{Fraction, Reader, Source};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: hh_speed FILE")?;
    let start = Instant::now();
    let pairs = Reader::new(Source::file(path)?).dataset(Hh::default())?;
    let rows = pairs.len();
    let read = start.elapsed();
    let dialogues = pairs.map(|record: HhRecord| (record.conversation(), record));
    let turns: usize =
        dialogues.records().iter().map(|(dialogue, _)| dialogue.messages.len()).sum();
    let parsed = start.elapsed();
    let kept = dialogues.keep("101 to 500 characters", "too short or too long", |(_, record)| {
        DIALOGUE_CHARACTERS.contains(&record.characters())
    });
    let filtered = kept.len();
    let split = kept.split_by(
        Fraction::new(0.2)?,
        Seed::new(42),
        |(conversation, _): &(Conversation, HhRecord)| {
            conversation.messages[0].content.as_str().into()
        },
    )?;
    let all = start.elapsed();
    println!(
        "{}",
        serde_json::json!({
            "rows": rows,
            "turns": turns,
            "kept": filtered,
            "train": split.train.len(),
            "held_out": split.held_out.len(),
            "read_seconds": read.as_secs_f64(),
            "turns_seconds": (parsed - read).as_secs_f64(),
            "filter_and_split_seconds": (all - parsed).as_secs_f64(),
            "seconds": all.as_secs_f64(),
        })
    );
    eprint!("{}", split.train.provenance());
    Ok(())
}
