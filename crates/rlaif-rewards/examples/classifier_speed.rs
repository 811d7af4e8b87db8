//! Scores texts with a classifier several times; prints the median time and all scores as one line
//! of JSON.
//!
//! `cargo run --release -p rlaif-rewards --example classifier_speed -- MODEL TEXTS.jsonl BATCH REPEATS`

use std::path::Path;
use std::time::Instant;

use rlaif_core::{Exchange, RewardModel};
use rlaif_models::LoadOptions;
use rlaif_rewards::{ClassifierOptions, ClassifierReward};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rlaif_torch::init()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, texts, batch, repeats] = arguments.as_slice() else {
        return Err("usage: classifier_speed MODEL TEXTS.jsonl BATCH REPEATS".into());
    };
    let texts: Vec<String> = std::fs::read_to_string(texts)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let batch_size = batch.parse()?;
    let options = ClassifierOptions::new().label(0).batch_size(batch_size);
    let reward = ClassifierReward::load(Path::new(model), LoadOptions::default(), options)?;
    let rows: Vec<Exchange<'_>> = texts.iter().map(|text| Exchange::new("", text)).collect();
    reward.score(&rows[..rows.len().min(batch_size)])?;
    let mut seconds = Vec::new();
    let mut scores = Vec::new();
    for _ in 0..repeats.parse::<usize>()?.max(1) {
        let start = Instant::now();
        let scored = reward.score(&rows)?;
        seconds.push(start.elapsed().as_secs_f64());
        scores = scored.total.iter().map(|score| score.map(|s| s.get())).collect();
    }
    seconds.sort_by(f64::total_cmp);
    let seconds = seconds[seconds.len() / 2];
    println!("{}", serde_json::json!({"seconds": seconds, "scores": scores}));
    Ok(())
}
