//! `rlaif dpo` and `rlaif bench dpo` as their user runs them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use rlaif::models::{LanguageModel, LoadOptions};
use serde_json::{Value, json};

use crate::support::{chat_completions, language_model, metrics, refusal, succeeded, tokenizer};

fn rlaif(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Standard error of a command that refused its input.
#[track_caller]
fn refused(output: &Output) -> String {
    refusal(output, 2)
}

/// A folder with a small Llama, its tokenizer, and pairs in which politeness is preferred.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16,
            "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 256, "eos_token_id": 1,
        });
        language_model(&folder.path().join("model"), &tokenizer("llama3"), 7, config);
        let place = Self(folder);
        let row = |i: usize| {
            let prompt = format!("\n\nHuman: Question {i}?\n\nAssistant:");
            let chosen = format!(" Happy to help with {i}.");
            json!({ "prompt": prompt, "chosen": chosen, "rejected": format!(" Go away, {i}!") })
        };
        place.write("pairs.jsonl", (0..24).map(row));
        place.write("held_out.jsonl", (100..108).map(row));
        place
    }

    pub(crate) fn write(&self, name: &str, rows: impl Iterator<Item = Value>) {
        let text: String = rows.map(|row| format!("{row}\n")).collect();
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A run file of this model and these pairs, with `more` behind it.
    pub(crate) fn run_file(&self, name: &str, more: &str) -> PathBuf {
        let data = format!(
            "[data]\ntrain = '{}'\nheld_out = '{}'\n",
            self.path("pairs.jsonl").display(),
            self.path("held_out.jsonl").display()
        );
        self.run_file_of(name, &data, more)
    }

    pub(crate) fn run_file_of(&self, name: &str, data: &str, more: &str) -> PathBuf {
        let path = self.path(&format!("{name}.toml"));
        let text = format!(
            "seed = 3\n[placement]\ndevice = 'cpu'\nthreads = 1\n[model]\npath = '{}'\n{data}{more}",
            self.path("model").display()
        );
        fs::write(&path, text).unwrap();
        path
    }

    fn dpo(&self, config: &Path, out: &str, more: &[&str]) -> Command {
        let out = self.path(out);
        let mut arguments =
            vec!["dpo", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
        arguments.extend(more);
        rlaif(&arguments)
    }

    fn metrics(&self, out: &str) -> Vec<Value> {
        metrics(&self.path(out))
    }

    fn weights(&self, out: &str) -> Vec<u8> {
        fs::read(self.path(out).join("model/model.safetensors")).unwrap()
    }
}

const STEPS: &str = "[train]\nsteps = 12\nbatch_size = 4\neval_every = 6\ncheckpoint_every = 2\n\
                     [dpo]\nmicrobatch_size = 3\n[dpo.optimizer]\nlr = 1e-2\n";

#[test]
fn a_run_learns_and_writes_its_folder() {
    let place = Place::new();
    let config = place.run_file("run", STEPS);
    let said = succeeded(&place.dpo(&config, "out", &[]).output().unwrap());
    assert!(said.contains("24 of 24 rows; 8 held out, 12 steps"), "{said}");
    assert!(said.contains("8 held-out pairs: the chosen response is the likelier one"), "{said}");
    let metrics = place.metrics("out");
    assert_eq!(metrics.len(), 12);
    let loss = |row: &Value| row["loss"].as_f64().unwrap();
    assert!((loss(&metrics[0]) - 2f64.ln()).abs() < 1e-6);
    assert!(loss(&metrics[11]) < 0.6);
    assert!(metrics[11]["eval/rewards/accuracies"].as_f64().unwrap() > 0.9);
    assert!(metrics[0].get("eval/loss").is_none() && metrics[5].get("eval/loss").is_some());
    let out = place.path("out");
    for file in ["run.toml", "log.txt", "checkpoints/step-12", "model/tokenizer.json"] {
        assert!(out.join(file).exists(), "{file}");
    }
    assert_eq!(fs::read_dir(out.join("reference")).unwrap().count(), 2);
    LanguageModel::load(&out.join("model"), LoadOptions::default()).unwrap();
}

pub(crate) const ONLINE: &str = "[dpo.reference]\ntype = 'live'\n[online.reward]\nkind = 'length'\nlongest = 3\n\
                      per = 1.0\n[online.pairs.generation]\nmax_new_tokens = 6\n";

const MOVING: &str = "[dpo.reference]\ntype = 'live'\nupdate = { every = 3, mixup = 0.5 }\n\
                      [[dpo.objective.pairs.terms]]\ntype = 'bco_pair'\n";

#[test]
fn a_run_that_is_killed_goes_on_bit_by_bit() {
    for (name, more) in [("pairs", ""), ("online", ONLINE), ("moving", MOVING)] {
        let place = Place::new();
        let config = place.run_file("run", &format!("{STEPS}{more}"));
        let longer = ["--set", "train.steps=40"];
        succeeded(&place.dpo(&config, "straight", &longer).output().unwrap());
        let killed = place.path("killed");
        let saved = || {
            let entries = fs::read_dir(killed.join("checkpoints"));
            entries.into_iter().flatten().flatten().any(|entry| {
                let name = entry.file_name().into_string().unwrap();
                name.starts_with("step-") && !name.contains(".partial")
            })
        };
        loop {
            let mut child = place.dpo(&config, "killed", &longer).spawn().unwrap();
            while !saved() && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(saved(), "{name}: it failed");
            if !killed.join("model").exists() {
                break;
            }
            // A busy machine may let it end first.
            fs::remove_dir_all(&killed).unwrap();
        }
        let resume = [&longer[..], &["--resume"]].concat();
        succeeded(&place.dpo(&config, "killed", &resume).output().unwrap());
        assert_eq!(place.metrics("killed"), place.metrics("straight"), "{name}");
        assert!(place.weights("killed") == place.weights("straight"), "{name}");
    }
}

#[test]
fn online_a_judge_picks_and_one_that_fails_ends_the_run() {
    let place = Place::new();
    // It prefers requests of even length, so some answers are better than others.
    let url = chat_completions(|body| format!("{}", body.len() % 2 * 4));
    let run_file = |name: &str, key: &str| {
        let more = format!(
            "[train]\nsteps = 3\nbatch_size = 8\n[dpo.reference]\ntype = 'live'\n[online.reward]\n\
             kind = 'judge'\nrubric = 'toxicity'\n[online.reward.api]\nkind = 'openai'\n\
             model = 'm'\nbase_url = '{url}'\napi_key_env = '{key}'\n\
             [online.pairs.generation]\nmax_new_tokens = 6\n"
        );
        place.run_file(name, &more)
    };
    let run = |name: &str, key: &str| {
        let config = run_file(name, key);
        let mut command = place.dpo(&config, name, &[]);
        command.env("GOOD_KEY", "sk-secret").env("BAD_KEY", "sk-other").output().unwrap()
    };
    succeeded(&run("judge", "GOOD_KEY"));
    let metrics = place.metrics("judge");
    let sum = |name: &str| metrics.iter().map(|row| row[name].as_f64().unwrap()).sum::<f64>();
    assert!(sum("online/pairs") > 0. && sum("online/unscored") == 0., "{metrics:?}");
    assert!(metrics.iter().any(|row| row["loss"].is_number()), "{metrics:?}");

    let output = run("refused", "BAD_KEY");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("401") && !error.contains("sk-other"), "{error}");
}

#[test]
fn every_kind_of_objective_runs() {
    let place = Place::new();
    let short = "[train]\nsteps = 2\nbatch_size = 4\n";
    let lora = "[model.lora]\nrank = 2\n";
    let simpo = "[[dpo.objective.pairs.terms]]\ntype = 'simpo'\n\
                 [[dpo.objective.pairs.terms]]\ntype = 'nll'\nweight = 0.5\n";
    let moving = "[dpo.reference]\ntype = 'live'\nupdate = { every = 1, mixup = 0.5 }\n";
    for (name, more) in [("lora", lora), ("online", ONLINE), ("simpo", simpo), ("moving", moving)] {
        let config = place.run_file(name, &format!("{short}{more}"));
        succeeded(&place.dpo(&config, name, &[]).output().unwrap());
        assert_eq!(place.metrics(name).len(), 2, "{name}");
    }
    assert!(place.path("lora").join("model/adapter_model.safetensors").exists());
    let online = &place.metrics("online")[0];
    assert!(online["online/score"].is_number() && online["online/pairs"].as_f64().unwrap() <= 4.);
    let samples = fs::read_to_string(place.path("online").join("samples.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 8, "four responses of each step");

    place.write(
        "singles.jsonl",
        (0..8).map(
            |i| json!({ "prompt": "Hello", "completion": format!(" {i}"), "label": i % 2 == 0 }),
        ),
    );
    let data = format!("[data]\ntrain = '{}'\n", place.path("singles.jsonl").display());
    let kto = "[columns]\nformat = 'unpaired'\n[dpo.objective.unpaired]\ntype = 'kto'\n";
    let config = place.run_file_of("kto", &data, &format!("{kto}{short}"));
    succeeded(&place.dpo(&config, "kto", &[]).output().unwrap());
    assert!(place.metrics("kto")[1]["kl"].is_number());

    // Single responses are evaluated on as well.
    let data = format!("{data}held_out_fraction = 0.4\n");
    let config = place.run_file_of("held", &data, &format!("{kto}{short}"));
    let said = succeeded(&place.dpo(&config, "held", &[]).output().unwrap());
    assert!(
        said.contains("held-out responses: the implicit reward is on the right side"),
        "{said}"
    );
    assert!(place.metrics("held")[1]["eval/rewards/accuracies"].is_number());

    // Without data: the built-in pairs.
    let config = place.run_file_of("builtin", "", "[train]\nsteps = 1\nbatch_size = 2\n");
    let said = succeeded(&place.dpo(&config, "builtin", &[]).output().unwrap());
    assert!(said.contains("held-out pairs"), "{said}");
}

#[test]
fn bad_input_is_named_and_nothing_is_written() {
    let place = Place::new();
    let refuse_set = |name: &str, more: &str, set: &[&str]| {
        let config = place.run_file(name, more);
        let error = refused(&place.dpo(&config, name, set).output().unwrap());
        assert!(!place.path(name).exists(), "{name}");
        error
    };
    let refuse = |name: &str, more: &str| refuse_set(name, more, &[]);
    let error = refuse("column", "[columns]\nchosen = 'winner'\n");
    assert!(error.contains("winner") && error.contains("pairs.jsonl"), "{error}");
    let error = refuse("key", "[dpo]\nmicrobatch = 2\n");
    assert!(error.contains("renamed to `microbatch_size`"), "{error}");
    let error = refuse("beta", "[[dpo.objective.pairs.terms]]\ntype = 'sigmoid'\nbeta = -1.0\n");
    assert!(
        error.contains("`dpo.objective.pairs.terms[0].beta` is -1; expected a positive number"),
        "{error}"
    );
    let error = refuse("lr", "[dpo.optimizer]\nlr = -1.0\n");
    assert!(error.contains("`dpo.optimizer.lr` is -1; expected"), "{error}");
    let error = refuse("format", "[columns]\nformat = 'unpaired'\n");
    assert!(error.contains("columns.format"), "{error}");
    let error = refuse("cached", "[online.reward]\nkind = 'length'\nlongest = 3\nper = 1.0\n");
    assert!(error.contains("dpo.reference") && error.contains("live"), "{error}");
    let limit = ["--set", "data.max_tokens=8"];
    let long = refuse_set("long", "[rows]\ntoo_long = 'error'\n", &limit);
    assert!(long.contains("the limit of 8") && long.contains(".jsonl, line 1: "), "{long}");

    for least in ["0", "1"] {
        let none = refuse_set("rows", "", &["--set", &format!("data.max_tokens={least}")]);
        let expected = format!("`data.max_tokens` is {least}; expected at least 2");
        assert!(none.contains(&expected), "{none}");
    }

    // Prompts to which no answer would fit are left out before any is sampled.
    let online = |answer: usize| {
        format!(
            "[train]\nsteps = 1\nbatch_size = 2\n[dpo.reference]\ntype = 'live'\n[online.reward]\n\
             kind = 'length'\nlongest = 3\nper = 1.0\n[online.pairs.generation]\n\
             max_new_tokens = {answer}\n"
        )
    };
    let error = refuse("none", &online(0));
    let expected = "`online.pairs.generation.max_new_tokens` is 0; expected at least 1";
    assert!(error.contains(expected), "{error}");
    let error = refuse("no-room", &online(250));
    assert!(error.contains("24 were left out (too long)"), "{error}");
    let error = refuse("no-cut", &format!("[rows]\ntoo_long = 'error'\n{}", online(250)));
    assert!(error.contains("the limit of 6"), "{error}");

    let row = |chosen: &str| json!({ "prompt": "a", "chosen": chosen, "rejected": " same" });
    place.write("pairs.jsonl", [row(" same"), row(""), row(" other")].into_iter());
    let error = refuse("identical", "[rows]\nidentical = 'error'\n");
    assert!(error.contains("pairs.jsonl, line 1: chosen and rejected are the same"), "{error}");
    let error = refuse("empty", "[rows]\nempty = 'error'\n");
    assert!(error.contains("pairs.jsonl, line 2: a response is empty"), "{error}");
    let config = place.run_file("skipped", "[train]\nsteps = 1\nbatch_size = 2\n");
    let said = succeeded(&place.dpo(&config, "skipped", &[]).output().unwrap());
    let counts = "1 of 3 rows, 1 were left out (empty response), 1 were left out (identical";
    assert!(said.contains(counts), "{said}");
}

#[test]
fn a_row_without_the_margin_that_the_loss_needs_is_named_before_the_training() {
    let place = Place::new();
    let row = |i: usize| {
        let margin = if i == 5 { Value::Null } else { json!(0.5) };
        json!({ "prompt": "a", "chosen": format!(" {i}"), "rejected": " b", "margin": margin })
    };
    place.write("margins.jsonl", (0..8).map(row));
    let soft = "[columns]\nmargin = 'margin'\n[[dpo.objective.pairs.terms]]\n\
                type = 'soft_sigmoid'\n";
    for data in ["train", "held_out"] {
        let other =
            if data == "train" { "held_out_fraction = 0.0" } else { "train = 'fine.jsonl'" };
        place.write("fine.jsonl", (0..4).map(row));
        let other = other.replace("fine.jsonl", place.path("fine.jsonl").to_str().unwrap());
        let margins = place.path("margins.jsonl").display().to_string();
        let data_section = format!("[data]\n{data} = '{margins}'\n{other}\n");
        let config = place.run_file_of(data, &data_section, soft);
        let error = refused(&place.dpo(&config, data, &[]).output().unwrap());
        assert!(error.contains("margins.jsonl, line 6: the loss needs a margin"), "{error}");
        assert!(!place.path(data).exists(), "nothing was written");
    }
}

#[test]
fn the_bench_reports_its_phases() {
    let place = Place::new();
    let model = place.path("model");
    let bench = |more: &[&str]| {
        let mut arguments = vec!["bench", "dpo", "--policy", model.to_str().unwrap()];
        arguments.extend(["--batch", "2", "--prompt-len", "4", "--new-tokens", "3"]);
        arguments.extend(["--steps", "1", "--device", "cpu", "--json"]);
        arguments.extend(more);
        rlaif(&arguments).output().unwrap()
    };
    for dtype in ["f32", "bf16"] {
        let output = bench(&["--dtype", dtype]);
        succeeded(&output);
        let got: Value = serde_json::from_slice(&output.stdout).unwrap();
        for name in ["sec_per_step", "samples_per_s", "tokens_per_s", "peak_memory_bytes"] {
            assert!(got[name].as_f64().unwrap() > 0., "{name}");
        }
        assert!(got["phases"]["reference"].as_f64().unwrap() > 0.);
        assert!(got["phases"]["update"].as_f64().unwrap() > 0.);
    }
    let output = bench(&["--reference", "cached", "--prompt-forward", "twice"]);
    succeeded(&output);
    let got: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(got["phases"]["reference"].as_f64().unwrap() < 1e-3);
    assert!(
        refused(&bench(&["--microbatch-size", "1", "--batch-size", "0"])).contains("--batch-size")
    );
}
