//! Fits a preference model on pairs of Anthropic's HH data, from a tiny random trunk.
//!
//! ```sh
//! cargo run --release --example train_reward_model -- pairs.jsonl reward-model helpful-base
//! ```
//!
//! `pairs.jsonl` has rows of `prompt`, `chosen` and `rejected`, where `prompt` holds the dialogue up
//! to `Assistant:`; the third argument keeps the rows of one `subset`. The folder that it writes loads in transformers
//! (`AutoModelForSequenceClassification`), and in `rlaif score`; the scores that
//! it has here for the first held-out pairs are in its `scores.json`.

use std::{error::Error, num::NonZeroUsize, path::Path};

use rlaif::{
    core::{PreferencePair, Seed, Specials, TextCodec},
    data::{Fraction, Reader, Remainder, Shuffle, Source, corpora::Typed},
    lm::{Forward, Padding, SequenceClassifier, TokenBatch},
    models::{Classifier, Config, SaveOptions},
    tch::{self, Device, Kind},
    text::HfTokenizer,
    torch::seeded,
    train::{LearnConfig, OptimizerConfig, PreferenceRow, PreferenceTrainer, Schedule},
};
use serde::Deserialize;
use serde_json::json;

/// Tokens that the model reads: of the prompt the last ones, of the response the first.
const PROMPT: usize = 32;
const RESPONSE: usize = 112;
const BATCH: usize = 32;
const EPOCHS: usize = 6;

/// A row of the file.
#[derive(Deserialize)]
struct Row {
    subset: Option<String>,
    prompt: String,
    chosen: String,
    rejected: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(pairs), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("usage: train_reward_model PAIRS.jsonl OUT [SUBSET]".into());
    };
    let subset = arguments.next();
    rlaif::torch::init()?;
    let seed = Seed::new(1);

    // 1. Pairs, a fifth of them held out by the hash of their texts.
    let pairs = Reader::new(Source::file(&pairs)?)
        .dataset(Typed::<Row>::new())?
        .keep("one subset", "of another subset", |row| subset.is_none() || row.subset == subset)
        .map(|row| {
            let id = format!("{}\n{}\n{}", row.prompt, row.chosen, row.rejected);
            PreferencePair::new(id, row.prompt, row.chosen, row.rejected)
        });
    let split = pairs.split(Fraction::new(0.2)?, seed)?;
    let (train, held_out) = (split.train.into_records(), split.held_out.into_records());

    // 2. A trunk with random weights, and a byte-level tokenizer.
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/rlaif-text/tests/fixtures/llama3");
    let tokenizer = HfTokenizer::from_folder(&source)?;
    let special = |token| tokenizer.token_id(token).ok_or("the tokenizer lacks a special token");
    let (begin, end) = (special("<|begin_of_text|>")?, special("<|end_of_text|>")?);
    let config = Config::from_value(json!({
        "model_type": "llama", "architectures": ["LlamaForSequenceClassification"],
        "vocab_size": tokenizer.embedding_rows(), "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 1 + PROMPT + RESPONSE, "rms_norm_eps": 1e-6, "num_labels": 1,
        "id2label": { "0": "reward" }, "pad_token_id": end, "tie_word_embeddings": false,
    }));
    let model = seeded(1, || Classifier::random(config, Kind::Float, Device::Cpu))??;
    println!("{} parameters, {} pairs to train on", model.parameters().count(), train.len());

    // 3. Fit.
    let rows = |pairs: &[PreferencePair]| -> Result<Vec<PreferenceRow>, Box<dyn Error>> {
        let row = |pair: &PreferencePair| {
            let prompt = tokenizer.encode(&pair.prompt, Specials::Exclude)?;
            let prompt = &prompt[prompt.len().saturating_sub(PROMPT)..];
            let ids = |response: &str| {
                let mut response =
                    tokenizer.encode(&format!(" {}", response.trim()), Specials::Exclude)?;
                response.truncate(RESPONSE);
                Ok::<_, Box<dyn Error>>([&[begin], prompt, &response].concat())
            };
            Ok(PreferenceRow::new(ids(&pair.chosen)?, ids(&pair.rejected)?))
        };
        pairs.iter().map(row).collect()
    };
    let (train_rows, held_out_rows) = (rows(&train)?, rows(&held_out)?);
    let steps = EPOCHS * train_rows.len().div_ceil(BATCH);
    let learn = LearnConfig {
        optimizer: OptimizerConfig {
            lr: 3e-3,
            weight_decay: 0.1,
            schedule: Schedule::Cosine,
            warmup_steps: 20,
            ..OptimizerConfig::default()
        },
        ..LearnConfig::default()
    };
    let mut trainer = PreferenceTrainer::new(&model, &learn, 0.01, steps as u64)?;
    let mut order = Shuffle::new(&train, seed)?;
    let size = NonZeroUsize::new(BATCH).ok_or("a batch has rows")?;
    for step in 1..=steps {
        let batch = order.next_batch(size, Remainder::Keep)?;
        let batch: Vec<&PreferenceRow> = batch.into_iter().map(|i| &train_rows[i]).collect();
        let stats = trainer.step(&batch)?;
        if step % 50 == 0 || step == steps {
            println!("step {step} of {steps}: loss {:.3}", stats.loss);
        }
    }

    // 4. What it has learned.
    let evaluation = trainer.evaluate(&held_out_rows)?;
    let (low, high) = evaluation.accuracy_interval();
    println!(
        "accuracy {:.3} on {} held-out pairs, 95 % interval {low:.3} to {high:.3}; mean margin {:.3}",
        evaluation.accuracy, evaluation.pairs, evaluation.margin
    );

    // 5. The folder, and scores to compare others' with.
    let out = Path::new(&out);
    model.save(out, &SaveOptions { source: Some(&source), ..SaveOptions::default() })?;
    let ids: Vec<Vec<u32>> = held_out_rows.iter().take(8).map(|row| row.chosen.clone()).collect();
    let batch = TokenBatch::collate(ids.clone(), model.spec(), Padding::Right)?;
    let scores = tch::no_grad(|| model.logits(&batch, None, Forward::default()))?;
    let scores = Vec::<f64>::try_from(scores.to_kind(Kind::Double).squeeze_dim(-1))?;
    std::fs::write(out.join("scores.json"), json!({ "ids": ids, "scores": scores }).to_string())?;
    println!("the model is in {}", out.display());
    Ok(())
}
