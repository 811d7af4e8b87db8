//! A small place for runs of reinforcement learning, and their command.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::Duration,
};

use rlaif::core::Seed;
use serde_json::json;

use crate::support::{language_model, length, metrics, succeeded, tokenizer, wait_for_progress};

/// A folder with a tiny T5, prompts, and a run file that begins with `more` and has `section` as the
/// settings of the algorithm of that name.
pub(crate) fn place(root: &Path, algorithm: &str, section: &str, more: &str) -> PathBuf {
    let config = json!({
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 16,
        "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": false, "pad_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0,
    });
    language_model(&root.join("policy"), &tokenizer("t5"), 1, config);
    let prompts: String =
        (0..20).map(|i| format!("{{\"prompt\": \"Number {i} says\"}}\n")).collect();
    fs::write(root.join("prompts.jsonl"), prompts).unwrap();
    let path = root.join("run.toml");
    let text = format!(
        "{more}\n[model]\npath = \"{root}/policy\"\n[data]\nprompts = \"{root}/prompts.jsonl\"\n\
         [reward]\nkind = \"normalised\"\ncentring = \"centred\"\n\
         of = {{ kind = \"length\", shortest = 3, longest = 4, per = 4.0 }}\n\
         [{algorithm}]\n{section}\n\
         [{algorithm}.generation]\nmax_new_tokens = 6\n[{algorithm}.optimizer]\nlr = 1e-3\n\
         [train]\ncheckpoint_every = 1\n[placement]\ndevice = \"cpu\"\nthreads = 1\n",
        root = root.display(),
    );
    fs::write(&path, text).unwrap();
    path
}

/// Gives a run file of [`place`] an environment, and a tiny Llama in place of the T5.
pub(crate) fn add_environment(root: &Path, config: &Path) {
    fs::remove_dir_all(root.join("policy")).unwrap();
    let llama = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 512, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 0,
        "initializer_range": 0.3,
    });
    language_model(&root.join("policy"), &tokenizer("llama3"), 1, llama);
    let text = fs::read_to_string(config).unwrap();
    let environment = "[environment]\nkind = \"guess\"\nhigh = 9\n[episodes]\nmax_turns = 3\n\
                       max_tokens = 100\n[train]";
    let text = text.replace("max_new_tokens = 6", "max_new_tokens = 4\neos = \"ignored\"");
    fs::write(config, text.replace("[train]", environment)).unwrap();
}

/// `rlaif` with these arguments, on one thread.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.args(arguments).env("OMP_NUM_THREADS", "1");
    command
}

/// A run of an algorithm, to its end.
pub(crate) fn train(algorithm: &str, config: &Path, out: &Path, more: &[&str]) -> Output {
    let mut arguments = vec![algorithm, "--config", config.to_str().unwrap(), "--out"];
    arguments.push(out.to_str().unwrap());
    arguments.extend(more);
    command(&arguments).output().unwrap()
}

/// The number of kills of a run.
pub(crate) struct Kills {
    pub(crate) all: u64,
    /// The least number of kills that come before the end of the run.
    pub(crate) on_the_way: u64,
}

/// Kills a run at random moments and resumes it each time: its metrics, its samples, its model and
/// these files of its folder must equal those of an uninterrupted run.
pub(crate) fn killed_and_resumed(
    algorithm: &str,
    config: &Path,
    more: &[&str],
    kills: &Kills,
    files: &[&str],
) {
    let [whole, killed] = ["whole", "killed"].map(|name| config.with_file_name(name));
    succeeded(&train(algorithm, config, &whole, more));
    let begin = || {
        let mut arguments = vec![algorithm, "--out", killed.to_str().unwrap()];
        if killed.join("run.toml").exists() {
            arguments.push("--resume");
        } else {
            arguments.extend(["--config", config.to_str().unwrap()]);
            arguments.extend(more);
        }
        command(&arguments)
    };
    let file = killed.join("metrics.jsonl");
    let (mut at, mut on_the_way) = (0, 0);
    while at < kills.all || on_the_way < kills.on_the_way {
        assert!(at < 1_000, "only {on_the_way} kills came before the end");
        let before = length(&file);
        let mut child = begin().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Every third during start-up, the others within a step or a checkpoint.
        if at % 3 < 2 {
            wait_for_progress(&mut child, &file, before);
        }
        sleep(Duration::from_micros(Seed::new(5).derive("kill", at).get() % 25_000));
        // SIGKILL.
        child.kill().unwrap();
        on_the_way += u64::from(!child.wait().unwrap().success());
        // On a busy machine it may end first: then repeat from the start.
        if killed.join("model").exists() {
            fs::remove_dir_all(&killed).unwrap();
        }
        at += 1;
    }
    succeeded(&begin().output().unwrap());
    assert_eq!(metrics(&whole), metrics(&killed));
    for file in ["samples.jsonl", "model/model.safetensors"].iter().chain(files) {
        let [one, two] = [&whole, &killed].map(|out| fs::read(out.join(file)).unwrap());
        assert!(one == two, "{file} differs");
    }
}
