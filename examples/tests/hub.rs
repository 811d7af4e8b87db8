//! The main example with the models and data of its published pipeline, by the commands of the docs:
//! a server on this machine speaks the hub's protocol and has tiny models under the real
//! repositories' names, in their layouts.

mod tiny_hub;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tiny_hub::{DISTILBERT, FLAN, GPT2, HH, LLAMA, ROBERTA, TinyHub};

impl TinyHub {
    /// Runs the main example, with a few small steps on top.
    fn run(&self, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> PathBuf {
        self.run_example("hh_toxicity", name, arguments, environment)
    }

    fn run_example(
        &self,
        example: &str,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> PathBuf {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).unwrap();
        let out = self.root.path().join(name);
        let mut command = Command::new(profile.join("examples").join(example));
        command.args(arguments).arg("--out").arg(&out).args(["--device", "cpu"]);
        if example == "hh_toxicity" {
            command.args(["--eval-prompts", "8"]);
        }
        // Tests run side by side; threads of one that wait for a core would keep it from the others.
        command.env("OMP_NUM_THREADS", "1");
        command.env("HF_ENDPOINT", self.server.endpoint()).env("HF_TOKEN", "");
        command.env("HF_HOME", self.root.path().join("cache")).env("HF_HUB_OFFLINE", "0");
        command.envs(environment.iter().copied());
        let output = command.output().expect("the example is built");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}");
        out
    }
}

const SMALL: [&str; 6] = ["--steps", "2", "--batch-size", "4", "--max-new-tokens", "8"];

fn report(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap()
}

#[test]
fn the_published_models_and_data_are_fetched_from_the_hub_and_trained() {
    let place = TinyHub::start();
    let command = ["--policy", FLAN, "--dataset", HH, "--reward", ROBERTA];
    let first = place.run("flan", &[&command[..], &SMALL].concat(), &[]);
    assert_eq!(report(&first)["n"], 8);
    assert!(first.join("model/model.safetensors").is_file());
    let fetched: Vec<String> =
        place.server.requests().into_iter().map(|request| request.path).collect();
    for file in ["config.json", "model.safetensors", "vocab.json", "merges.txt", "train.jsonl.gz"] {
        assert!(fetched.iter().any(|path| path.ends_with(file)), "{file}: {fetched:?}");
    }
    for file in ["test.jsonl.gz", "red_team_attempts.jsonl.gz", "README.md"] {
        assert!(!fetched.iter().any(|path| path.ends_with(file)), "{file}: {fetched:?}");
    }

    // Once fetched, it is there without a network, and gives the same numbers.
    let again = place.run("again", &[&command[..], &SMALL].concat(), &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(report(&again)["after"], report(&first)["after"]);

    let chat = ["--policy", LLAMA, "--dtype", "bf16", "--lora", "16", "--dataset", HH];
    let out = place.run("llama", &[&chat[..], &SMALL].concat(), &[]);
    assert!(out.join("model/adapter_model.safetensors").is_file());
    let adapter: Value =
        serde_json::from_slice(&fs::read(out.join("model/adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&adapter["r"], &adapter["peft_type"]), (&json!(16), &json!("LORA")));
    let samples = fs::read_to_string(out.join("samples.jsonl")).unwrap();
    let sample: Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
    let prompt = sample["prompt"].as_str().unwrap();
    assert!(prompt.contains("<|start_header_id|>user<|end_header_id|>"), "{prompt}");
    let fetched = place.server.requests();
    assert!(!fetched.iter().any(|request| request.path.contains("consolidated")));
}

/// TRL's first example, by the hub ids that it names.
#[test]
fn gpt2_and_its_sentiment_come_from_the_hub() {
    let place = TinyHub::start();
    let command = [
        "--policy",
        GPT2,
        "--reward",
        DISTILBERT,
        "--steps",
        "2",
        "--batch-size",
        "4",
        "--lr",
        "1e-3",
    ];
    let out = place.run_example("sentiment_gpt2", "gpt2", &command, &[]);
    assert!(out.join("model.safetensors").is_file());
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let config = read(out.join("config.json"));
    assert_eq!((&config["model_type"], &config["n_embd"]), (&json!("gpt2"), &json!(32)));
    let fetched: Vec<String> =
        place.server.requests().into_iter().map(|request| request.path).collect();
    for (id, file) in [(GPT2, "merges.txt"), (DISTILBERT, "vocab.txt")] {
        let fits = |path: &String| path.contains(id) && path.ends_with(file);
        assert!(fetched.iter().any(fits), "{id} {file}: {fetched:?}");
    }
}

/// The settings of the published pipeline, which name their models and data themselves.
#[test]
fn the_published_settings_name_their_models_and_data() {
    let place = TinyHub::start();
    let out = place.run("blog", &["--blog"], &[]);
    let settings = fs::read_to_string(out.join("run.toml")).unwrap();
    for said in [FLAN, HH, ROBERTA, "steps = 10", "batch_size = 16", "max_new_tokens = 300"] {
        assert!(settings.contains(said), "{said}: {settings}");
    }
    assert_eq!(fs::read_to_string(out.join("metrics.jsonl")).unwrap().lines().count(), 10);
}
