//! Memory needed for loading. A separate test binary, because it reads the peak memory of the
//! process.

mod common;

use std::{fs::File, io::Write};

use common::model;
use rlaif_lm::SequenceClassifier;
use rlaif_models::{Classifier, LoadOptions};
use serde_json::{Map, Value, json};
use tch::Tensor;

#[test]
fn loading_takes_the_weights_once() {
    // The tiny RoBERTa with a vocabulary of 120 MiB; zeros, which take no disk space.
    let vocab = 1_000_000u64;
    let folder = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(model("roberta").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["vocab_size"] = vocab.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let (mut header, mut end) = (Map::new(), 0u64);
    for (name, tensor) in
        Tensor::read_safetensors(model("roberta").join("model.safetensors")).unwrap()
    {
        let mut shape: Vec<u64> = tensor.size().iter().map(|&size| size.unsigned_abs()).collect();
        if name.ends_with("word_embeddings.weight") {
            shape[0] = vocab;
        }
        let start = end;
        end += 4 * shape.iter().product::<u64>();
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] });
        header.insert(name, entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(folder.path().join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();

    // Allocates code and threads.
    drop(Classifier::load(&model("roberta"), LoadOptions::default()).unwrap());
    let peak = || rlaif_torch::host_memory().resident_peak.unwrap();
    let before = peak();
    let classifier = Classifier::load(folder.path(), LoadOptions::default()).unwrap();
    let taken = (peak() - before) as f64 / end as f64;
    println!("{} MiB of weights take {taken:.3} times that", end >> 20);
    assert_eq!(classifier.spec().vocab_size.unsigned_abs(), vocab);
    assert!((0.9..1.15).contains(&taken), "{taken}");
}
