//! The working folder of a page's commands: like a clone of this repository, with the programs, the
//! hub, the judge and the files that the pages presume.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rlaif::data::builtin::{self, Part};
use rlaif::models::{Classifier, Config, SaveOptions};
use rlaif::tch::{Cuda, Device, Kind, manual_seed};
use rlaif::text::HfTokenizer;
use serde_json::json;

use crate::judge_server;
use crate::page::Page;
use crate::tiny_hub::{FLAN, TinyHub, tokenizer};

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// `target/debug`, with the programs that were built with this test.
pub(crate) fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_path_buf()
}

/// The Python for tests, if there is one.
fn python() -> Option<String> {
    std::env::var("RLAIF_PYTHON").ok().filter(|path| !path.is_empty())
}

/// The reason for skipping commands that call Python: it is missing, or lacks pinned
/// `requirements`.
pub(crate) fn python_lacks(requirements: &str) -> Option<String> {
    let Some(python) = python() else { return Some("RLAIF_PYTHON names no Python".to_owned()) };
    let code = "import importlib.metadata, sys\n\
                for line in open(sys.argv[1]):\n    \
                name, _, wanted = line.strip().partition('==')\n    \
                found = importlib.metadata.version(name).split('+')[0]\n    \
                assert found == (wanted or found), f'{name} {found} is not {wanted}'";
    let file = repository().join(requirements);
    let output = Command::new(python).args(["-c", code]).arg(file).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let last = told.lines().last().unwrap_or_default();
    (!output.status.success()).then(|| format!("not what {requirements} asks for: {last}"))
}

pub(crate) struct Place {
    hub: TinyHub,
    /// The folder that stands for a clone of this repository.
    clone: PathBuf,
}

impl Place {
    /// The working folder of `page`, with the run files that the page shows.
    pub(crate) fn of(page: &Page) -> Self {
        let hub = TinyHub::start();
        let clone = hub.root.path().join("clone");
        let place = Self { hub, clone };
        place.link_the_repository();
        place.add_programs();
        place.add_models();
        place.add_rows();
        place.add_data();
        place.add_run_files(page);
        place
    }

    fn root(&self) -> &Path {
        self.hub.root.path()
    }

    /// Links the files of the repository that commands read; copies the folders that they write to.
    /// (Only these, because the results of other commands may lie beside them.)
    fn link_the_repository(&self) {
        fs::create_dir_all(self.clone.join("models")).unwrap();
        let models = ["summary-llama", "summary-t5", "toxicity-bert", "toxicity-roberta"];
        let models = models.map(|model| format!("models/{model}"));
        let folders = ["benches", "crates", "docs", "examples"].map(str::to_owned);
        for name in folders.iter().chain(&models) {
            symlink(repository().join(name), self.clone.join(name)).unwrap();
        }
        let copied = Command::new("cp")
            .args(["-r", "--no-preserve=mode"])
            .args([repository().join("fixtures"), self.clone.join("fixtures")])
            .status();
        assert!(copied.unwrap().success());
    }

    /// Adds programs that are called by name, and by the paths at which the pages build and install
    /// them.
    fn add_programs(&self) {
        let script = self.root().join("programs.sh");
        fs::write(&script, include_str!("programs.sh")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["../bin", "target/release", "target/new/bin", "target/old/bin"] {
            fs::create_dir_all(self.clone.join(folder)).unwrap();
        }
        for program in ["cargo", "rlaif", "python", "python3"] {
            symlink(&script, self.root().join("bin").join(program)).unwrap();
        }
        let target = self.clone.join("target");
        symlink(&script, target.join("release/rlaif")).unwrap();
        symlink(built().join("examples"), target.join("release/examples")).unwrap();
        symlink(&script, target.join("new/bin/python")).unwrap();
        symlink(&script, target.join("old/bin/python")).unwrap();
    }

    /// The models that run files name in addition to those of the hub.
    fn add_models(&self) {
        symlink(self.clone.join("models/summary-t5"), self.clone.join("MODEL")).unwrap();
        let tuned = self.clone.join("runs/ppo");
        fs::create_dir_all(&tuned).unwrap();
        symlink(self.root().join("models").join(FLAN), tuned.join("model")).unwrap();
        self.add_classifier("models/other", "roberta", |rows| {
            json!({
                "model_type": "roberta", "architectures": ["RobertaForSequenceClassification"],
                "vocab_size": rows, "hidden_size": 16, "num_hidden_layers": 1,
                "num_attention_heads": 2, "intermediate_size": 16, "type_vocab_size": 1,
                "max_position_embeddings": 514, "layer_norm_eps": 1e-5, "pad_token_id": 1,
                "id2label": { "0": "fine", "1": "toxic" },
            })
        });
        self.add_classifier("models/reward", "llama3", |rows| {
            json!({
                "model_type": "llama", "architectures": ["LlamaForSequenceClassification"],
                "vocab_size": rows, "hidden_size": 16, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16,
                "max_position_embeddings": 2048, "num_labels": 1, "rms_norm_eps": 1e-6,
                "id2label": { "0": "reward" }, "pad_token_id": 0, "tie_word_embeddings": false,
            })
        });
    }

    fn add_classifier(&self, name: &str, text: &str, config: fn(usize) -> serde_json::Value) {
        let text = tokenizer(text);
        let rows = HfTokenizer::from_folder(&text).unwrap().embedding_rows();
        manual_seed(5);
        let config = Config::from_value(config(rows));
        let model = Classifier::random(config, Kind::Float, Device::Cpu).unwrap();
        let options = SaveOptions { source: Some(&text), ..SaveOptions::default() };
        model.save(&self.clone.join(name), &options).unwrap();
    }

    /// Rows with the columns of every file that the pages read.
    fn add_rows(&self) {
        let mut rows = String::new();
        let dialogues = builtin::dialogues(Part::Train).into_records().into_iter();
        let short =
            dialogues.filter(|dialogue| (101..400).contains(&dialogue.dialogue.chars().count()));
        for (n, dialogue) in short.take(120).enumerate() {
            let (before, after) = dialogue.dialogue.rsplit_once("Assistant:").unwrap();
            let subset = ["helpful-base", "harmless-base"][n % 2];
            let row = json!({
                "id": format!("row-{n}"), "subset": subset, "prompt": format!("{before}Assistant:"),
                "chosen": after, "rejected": format!(" No, not {n}."), "response": after,
                "text": after.trim(), "dialogue": dialogue.dialogue, "summary": dialogue.summary,
            });
            // With the spaces that Python writes: a command of the docs searches for them.
            let row = row.to_string().replace("\"subset\":", "\"subset\": ");
            writeln!(rows, "{row}").unwrap();
        }
        let shared = self.root().join("shared/data");
        for folder in ["hh", "summ", "tox", "prefs", "pretrain"] {
            fs::create_dir_all(shared.join(folder)).unwrap();
        }
        for file in ["train", "val", "pairs", "hh"] {
            fs::write(self.clone.join(file).with_extension("jsonl"), &rows).unwrap();
        }
        for (file, rows) in [
            ("prompts.jsonl", json!({ "prompt": "Name a prime." })),
            ("texts.jsonl", json!({ "text": "I like you." })),
            ("rows.jsonl", json!({ "prompt": "Name a prime.", "response": "Seven." })),
        ] {
            fs::write(self.clone.join(file), format!("{rows}\n").repeat(8)).unwrap();
        }
        for file in
            ["hh/train.jsonl", "summ/train.jsonl", "summ/val.jsonl", "prefs/paradetox_pairs.jsonl"]
        {
            fs::write(shared.join(file), &rows).unwrap();
        }
    }

    /// The remaining folders that the built-in models are trained from.
    fn add_data(&self) {
        let shared = self.root().join("shared/data");
        let sources = ["paradetox", "surge", "wiki-jigsaw", "davidson"];
        let rude = ["You are a useless fool", "What a pathetic clown that was", "He is an idiot"];
        let kind = ["You are a great help", "What a lovely song that was", "She went home"];
        let labelled: String = (0..200)
            .map(|n| {
                let text = [rude, kind][n % 2][n % 3];
                let text = format!("{text} number {n}");
                let row = json!({ "text": text, "label": 1 - n % 2, "src": sources[n % 4] });
                format!("{row}\n")
            })
            .collect();
        fs::write(shared.join("tox/train.jsonl"), &labelled).unwrap();
        fs::write(shared.join("tox/val.jsonl"), &labelled).unwrap();
        let chat: String = (0..40)
            .map(|n| {
                format!(
                    "A: Where may I park number {n} today?\nB: Behind the house is room for {n}.\n\
                     A: That is good to know.\nB: You are welcome.\n\n"
                )
            })
            .collect();
        for file in ["sgd", "synthetic_persona_chat", "taskmaster4", "topical_chat"] {
            fs::write(shared.join("pretrain").join(file).with_extension("txt"), &chat).unwrap();
        }
        symlink(&shared, self.clone.join("DATA_FOLDER")).unwrap();
    }

    /// The run files that the page shows, under the names that its commands use; a file that asks
    /// an external judge asks the judge of this test instead.
    fn add_run_files(&self, page: &Page) {
        let judge = judge_server::start(judge_server::ANTHROPIC);
        let ours = format!("model = \"claude-haiku-4-5\"\nbase_url = \"{judge}\"");
        let example = "crates/rlaif-rewards/examples/judges/anthropic.toml";
        let example = fs::read_to_string(repository().join(example)).unwrap();
        let example = example.replace("model = \"claude-haiku-4-5\"", &ours);
        fs::write(self.clone.join("judge.toml"), example).unwrap();
        let files: HashMap<&str, &str> = [
            ("docs/ppo.md", "ppo.toml"),
            ("docs/reinforce.md", "grpo.toml"),
            ("docs/distillation.md", "distill.toml"),
            ("docs/evaluation.md", "eval.toml"),
            ("docs/training.md", "run.toml"),
            ("docs/dpo.md", "run.toml"),
            ("docs/results.md", "hh.toml"),
            ("docs/rewards.md", "reward.toml"),
        ]
        .into();
        if let Some(file) = files.get(page.name.as_str()) {
            let text = page.blocks("toml").swap_remove(0);
            let text = text.replace(
                "model = \"claude-haiku-4-5\" }",
                &format!("model = \"claude-haiku-4-5\", base_url = \"{judge}\" }}"),
            );
            fs::write(self.clone.join(file), text).unwrap();
        }
    }

    /// Runs a script in the folder of the clone, or in `folder` of it.
    pub(crate) fn run(&self, script: &str, folder: &str) -> std::process::Output {
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", self.root().join("bin").display());
        let scratch = self.root().join("tmp");
        fs::create_dir_all(&scratch).unwrap();
        let cuda = if Cuda::is_available() { "yes" } else { "no" };
        Command::new("bash")
            .args(["-c", script])
            .current_dir(self.clone.join(folder))
            .env("PATH", path)
            .env("TMPDIR", scratch)
            .env("BUILT", built())
            .env("REPOSITORY", repository())
            .env("CUDA", cuda)
            .env("RLAIF_PYTHON", python().unwrap_or_default())
            .env("HF_ENDPOINT", self.hub.server.endpoint())
            .env("HF_HOME", self.root().join("cache"))
            .env("HF_HUB_OFFLINE", "0")
            .env("HF_TOKEN", "")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("ANTHROPIC_API_KEY", "k")
            // Pages run in parallel; idle threads of one would slow down the others.
            .env("OMP_NUM_THREADS", "1")
            .output()
            .unwrap()
    }
}
