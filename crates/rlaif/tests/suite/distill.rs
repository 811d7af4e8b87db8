//! `rlaif distill`, as a program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use rlaif::models::{LanguageModel, LoadOptions};
use serde_json::json;

use crate::rl::{self, Kills};
use crate::support::{language_model, metrics, refusal, succeeded, tokenizer};

/// A folder with a tiny student, a larger teacher, one of another vocabulary, and a run file.
pub(crate) fn prepare(root: &Path) -> PathBuf {
    let config = |width: usize| {
        json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": width,
            "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 64, "eos_token_id": 1, "initializer_range": 0.3,
        })
    };
    language_model(&root.join("student"), &tokenizer("llama3"), 1, config(16));
    language_model(&root.join("teacher"), &tokenizer("llama3"), 2, config(32));
    language_model(&root.join("stranger"), &tokenizer("mistral"), 3, config(32));
    let prompts: String = (0..12)
        .map(|i| format!("{}\n", json!({"prompt": format!("Number {i} says"), "said": "so"})))
        .collect();
    fs::write(root.join("prompts.jsonl"), prompts).unwrap();
    let path = root.join("run.toml");
    let text = format!(
        "teacher = \"{root}/teacher\"\n[model]\npath = \"{root}/student\"\n\
         [data]\nprompts = \"{root}/prompts.jsonl\"\n[distill]\nsteps = 8\nbatch_size = 4\n\
         [distill.generation]\nmax_new_tokens = 6\n[distill.optimizer]\nlr = 1e-2\n\
         [train]\ncheckpoint_every = 1\n[placement]\ndevice = \"cpu\"\nthreads = 1\n",
        root = root.display(),
    );
    fs::write(&path, text).unwrap();
    path
}

fn train(config: &Path, out: &Path, set: &[&str]) -> Output {
    let more: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
    rl::train("distill", config, out, &more)
}

#[test]
fn every_divergence_leaves_a_model_that_loads() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path());
    for (name, divergence) in [
        ("reverse", "{jsd={beta=1.0}}"),
        ("likeliest", "{top_k={k=8}}"),
        ("gradient", "{policy_gradient={clip=5.0}}"),
    ] {
        let out = root.path().join(name);
        let set = format!("distill.divergence={divergence}");
        succeeded(&train(&config, &out, &[&set]));
        let rows = metrics(&out);
        assert_eq!(rows.len(), 8, "{name}");
        let kl = |row: usize| rows[row]["distill/reverse_kl"].as_f64().unwrap();
        assert!(kl(7) < kl(0), "{name}: {} {}", kl(0), kl(7));
        LanguageModel::load(&out.join("model"), LoadOptions::default()).unwrap();
    }
}

#[test]
fn a_teacher_of_another_tokenizer_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path());
    let out = root.path().join("refused");
    let stranger = root.path().join("stranger").display().to_string();
    let told = refusal(&train(&config, &out, &[&format!("teacher={stranger}")]), 2);
    assert!(told.contains(&stranger), "{told}");
    assert!(told.contains("another vocabulary"), "{told}");
    let told = refusal(&train(&config, &out, &["distill.divergence={jsd={beta=3.0}}"]), 2);
    assert!(told.contains("`distill.divergence.jsd.beta` is 3"), "{told}");
    let told = refusal(&train(&config, &out, &["distill.on_policy=0.5"]), 2);
    assert!(
        told.contains("`data.reference_column` is not set")
            && told.contains("`distill.on_policy` is 0.5"),
        "{told}"
    );
    assert!(!out.exists());
}

/// A run that was killed within a step and resumed equals an uninterrupted one.
#[test]
fn killed_and_resumed_it_is_the_uninterrupted_run_bit_by_bit() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path());
    let files = ["checkpoints/step-8/optimizer.safetensors", "checkpoints/step-8/distill.json"];
    let mixed = ["--set", "distill.on_policy=0.5", "--set", "data.reference_column=said"];
    rl::killed_and_resumed("distill", &config, &mixed, &Kills { all: 3, on_the_way: 1 }, &files);
}
