//! The saved model of the main example loads in transformers and gives the same greedy summaries.
//!
//! Runs if `RLAIF_PYTHON` names a Python with the packages of `fixtures/models/requirements.txt`;
//! otherwise it reports that it was skipped.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rlaif::core::{Seed, Specials, TextCodec};
use rlaif::lm::Forward;
use rlaif::lm::generate::{Ask, GenerationConfig, Hooks, Sampling, generate};
use rlaif::models::{LanguageModel, LoadOptions};
use rlaif::tch::{Device, Kind};
use rlaif::text::HfTokenizer;
use serde_json::Value;

const LENGTH: usize = 48;

/// The prompts of held-out dialogues as token ids, as the example encodes them.
fn prompts(out: &Path, tokenizer: &HfTokenizer, specials: Specials) -> Vec<Vec<u32>> {
    let report: Value =
        serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    let samples = report["samples"].as_array().unwrap();
    let texts = samples.iter().map(|sample| sample["prompt"].as_str().unwrap());
    texts.map(|text| tokenizer.encode(text, specials).unwrap()).collect()
}

fn greedy(folder: &Path, tokenizer: &HfTokenizer, prompts: &[Vec<u32>]) -> Vec<String> {
    let in_f32 = LoadOptions::new(Device::Cpu, Kind::Float);
    let policy = LanguageModel::load(folder, in_f32).unwrap();
    let rows: Vec<Ask> = (0..)
        .zip(prompts)
        .map(|(id, prompt)| Ask { id, prompt: prompt.clone(), max_new_tokens: None })
        .collect();
    let how = GenerationConfig {
        max_new_tokens: LENGTH,
        sampling: Sampling::Greedy,
        ..GenerationConfig::default()
    };
    generate(&policy, &rows, &how, Seed::new(0), 0, Forward::default(), Hooks::default())
        .unwrap()
        .into_iter()
        .map(|row| tokenizer.decode(&row.ids, Specials::Exclude).unwrap().trim().to_owned())
        .collect()
}

#[test]
fn the_saved_policy_gives_the_same_greedy_summaries_in_transformers() {
    let Some(python) = std::env::var_os("RLAIF_PYTHON") else {
        // Written directly to the terminal: a skipped test must not look like a passed one.
        eprintln!("SKIPPED: RLAIF_PYTHON names no Python with transformers");
        return;
    };
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    for (policy, specials) in [("t5", Specials::Include), ("llama", Specials::Exclude)] {
        let place = tempfile::tempdir().unwrap();
        let out: PathBuf = place.path().join("run");
        let mut command = Command::new(profile.join("examples").join("hh_toxicity"));
        command.args(["--policy", policy, "--device", "cpu", "--steps", "3", "--batch-size", "8"]);
        command.args(["--eval-prompts", "12", "--max-new-tokens", "16", "--out"]).arg(&out);
        let output = command.env("OMP_NUM_THREADS", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

        let model = out.join("model");
        let tokenizer = HfTokenizer::from_folder(&model).unwrap();
        let prompts = prompts(&out, &tokenizer, specials);
        assert_eq!(prompts.len(), 12);
        let ours = greedy(&model, &tokenizer, &prompts);

        let mut child = Command::new(&python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/greedy.py"))
            .arg(&model)
            .arg(LENGTH.to_string())
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = serde_json::to_vec(&prompts).unwrap();
        child.stdin.take().unwrap().write_all(&input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let theirs: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
        assert!(ours.iter().all(|text| text.split_whitespace().count() > 4), "{ours:?}");
        assert_eq!(ours, theirs, "{policy}");
    }
}
