//! A small place for runs of reinforcement learning, and their command.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::json;

use crate::support::{language_model, tokenizer};

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
