//! Fitted classifiers and preference models, loaded by rlaif's rewards and by transformers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::support::repository;

fn rlaif(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_rlaif"))
        .current_dir(folder)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn built_in(name: &str) -> PathBuf {
    repository("models").join(name)
}

const PROMPT: &str = "Human: What do bears eat?\n\nAssistant:";
const RESPONSES: [&str; 3] =
    [" Honey, you idiot.", " Berries.", " I do not know; what do you think?"];

/// The logits of a fitted model for each prompt with its response, by `rlaif score`, `rlaif judge`
/// and, if Python is available, transformers.
fn scores_everywhere(folder: &Path, run: &str, labels: usize) {
    let model = folder.join(run).join("model");
    let model = model.to_str().unwrap();
    let rows = |row: &dyn Fn(&str) -> Value| -> String {
        RESPONSES.iter().map(|response| format!("{}\n", row(response))).collect()
    };
    let texts = rows(&|response| json!({ "text": format!("{PROMPT}{response}") }));
    fs::write(folder.join("texts.jsonl"), &texts).unwrap();
    let exchanges = rows(&|response| json!({ "prompt": PROMPT, "response": response }));
    fs::write(folder.join("exchanges.jsonl"), exchanges).unwrap();

    let lines =
        rlaif(folder, &["score", "--model", model, "--input", "texts.jsonl", "--device", "cpu"]);
    let parsed = |lines: &str| -> Vec<Value> {
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let logits: Vec<Vec<f64>> = parsed(&lines)
        .iter()
        .map(|row| serde_json::from_value(row["logits"].clone()).unwrap())
        .collect();
    assert!(logits.len() == 3 && logits.iter().all(|row| row.len() == labels));
    assert!(logits[0][0] != logits[1][0], "{run} says the same of everything");

    let label = if labels > 1 { "label = 'bad'\n" } else { "" };
    let reward = format!(
        "kind = 'classifier'\nmodel = '{model}'\ninput = 'prompt-and-response'\n\
         output = 'logit'\n{label}"
    );
    fs::write(folder.join("reward.toml"), reward).unwrap();
    let judged = rlaif(
        folder,
        &["judge", "--config", "reward.toml", "--input", "exchanges.jsonl", "--device", "cpu"],
    );
    // A reward model reads the end of sequence after a response, as in training.
    let scored = ["score", "--model", model, "--input", "exchanges.jsonl", "--device", "cpu"];
    let of_exchanges: Vec<Vec<f64>> = parsed(&rlaif(folder, &scored))
        .iter()
        .map(|row| serde_json::from_value(row["logits"].clone()).unwrap())
        .collect();
    assert!(labels == 1 || of_exchanges == logits, "{run}");
    for (row, logits) in parsed(&judged).iter().zip(&of_exchanges) {
        let off = (row["score"].as_f64().unwrap() - logits[labels - 1]).abs();
        assert!(off < 1e-5, "{run}: {row} and {logits:?}");
    }

    let Some(python) = std::env::var_os("RLAIF_PYTHON") else {
        eprintln!("SKIPPED {run} in transformers: RLAIF_PYTHON names no Python with it");
        return;
    };
    let script = "import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
for line in open(sys.argv[2]):
    ids = tokenizer(json.loads(line)['text'], return_tensors='pt')
    names = ('input_ids', 'attention_mask')
    print(model(**{name: ids[name] for name in names}).logits[0].tolist())";
    let output = Command::new(python)
        .current_dir(folder)
        .args(["-c", script, model, "texts.jsonl"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs = String::from_utf8(output.stdout).unwrap();
    for (line, ours) in theirs.lines().zip(&logits) {
        let theirs: Vec<f64> = serde_json::from_str(line).unwrap();
        let off = theirs.iter().zip(ours).map(|(a, b)| (a - b).abs()).fold(0., f64::max);
        assert!(theirs.len() == labels && off < 1e-5, "{run}: {theirs:?} and {ours:?}");
    }
    assert_eq!(theirs.lines().count(), 3);
}

fn fit(folder: &Path, command: &str, more: &str, model: &str) -> String {
    let out = format!("{command}-{model}");
    let text = format!(
        "{more}\n[placement]\ndevice = 'cpu'\n[model]\npath = '{}'\n[data]\n\
         train = '{command}.jsonl'\nmax_tokens = 64\n[train]\nsteps = 3\nbatch_size = 4\n\
         [learn.optimizer]\nlr = 1e-3\n",
        built_in(model).display()
    );
    fs::write(folder.join(format!("{out}.toml")), text).unwrap();
    rlaif(folder, &[command, "--config", &format!("{out}.toml"), "--out", &out]);
    out
}

#[test]
fn preference_models_score_alike_wherever_they_are_loaded() {
    let place = tempfile::tempdir().unwrap();
    let row = |i| {
        let prompt = format!("Human: What is {i}?\n\nAssistant:");
        json!({ "prompt": prompt, "chosen": " A number.", "rejected": " You fool!" }).to_string()
    };
    let rows: Vec<String> = (0..12).map(row).collect();
    fs::write(place.path().join("reward.jsonl"), rows.join("\n")).unwrap();
    // A language model, and two classifiers with two labels.
    for model in ["summary-llama", "toxicity-roberta", "toxicity-bert"] {
        let run = fit(place.path(), "reward", "", model);
        scores_everywhere(place.path(), &run, 1);
    }
}

#[test]
fn classifiers_score_alike_wherever_they_are_loaded() {
    let place = tempfile::tempdir().unwrap();
    let row = |i: usize| {
        let (text, label) = [("A number.", "good"), ("You fool!", "bad")][i % 2];
        json!({ "text": format!("{i}: {text}"), "label": label }).to_string()
    };
    let rows: Vec<String> = (0..12).map(row).collect();
    fs::write(place.path().join("classifier.jsonl"), rows.join("\n")).unwrap();
    let run = fit(place.path(), "classifier", "labels = ['good', 'bad']", "summary-llama");
    scores_everywhere(place.path(), &run, 2);
    let labels = "labels = ['good', 'so-so', 'bad']";
    let run = fit(place.path(), "classifier", labels, "toxicity-bert");
    scores_everywhere(place.path(), &run, 3);
}
