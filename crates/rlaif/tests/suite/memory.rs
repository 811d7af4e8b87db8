//! A run that does not fit into memory is refused before it starts, by every command that trains.

use std::{fs, path::Path, process::Command};

use serde_json::json;

use crate::support::{language_model, tokenizer};

/// A folder with a tiny T5, a tiny Llama, rows for every command, and their run files.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let t5 = json!({
        "model_type": "t5", "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 2,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false,
        "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
    });
    language_model(&root.join("t5"), &tokenizer("t5"), 5, t5);
    let llama = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 1,
    });
    language_model(&root.join("llama"), &tokenizer("llama3"), 5, llama);
    let row = |i: usize| {
        let (prompt, answer) = (format!("Is {i} safe?"), " It is.");
        let label = if i.is_multiple_of(2) { "no" } else { "yes" };
        json!({
            "prompt": prompt, "response": answer, "chosen": answer, "rejected": " It is not.",
            "text": prompt, "label": label,
        })
        .to_string()
    };
    let rows: Vec<String> = (0..20).map(row).collect();
    fs::write(root.join("rows.jsonl"), rows.join("\n")).unwrap();
    let long = json!({ "prompt": "Is it safe?", "response": " It is safe.".repeat(20_000) });
    fs::write(root.join("long.jsonl"), format!("{}\n{long}", rows[0])).unwrap();
    let supervised = |model: &str, more: &str| {
        format!("{more}[model]\npath = '{model}'\n[data]\ntrain = 'rows.jsonl'\n")
    };
    let ppo = "[model]\npath = 't5'\n[data]\nprompts = 'rows.jsonl'\n\
               [reward]\nkind = 'length'\nshortest = 3\nlongest = 4\nper = 4.0\n\
               [ppo]\nsteps = 1\nbatch_size = 4\nminibatch_size = 2\n\
               [ppo.generation]\nmax_new_tokens = 6\n";
    let reinforce =
        ppo.replace("[ppo", "[reinforce").replace("minibatch_size = 2", "group_size = 2");
    let distill = "teacher = 't5'\n[model]\npath = 't5'\n[data]\nprompts = 'rows.jsonl'\n\
                   [distill]\nsteps = 1\nbatch_size = 4\n[distill.generation]\nmax_new_tokens = 6\n";
    for (command, text) in [
        ("sft", supervised("t5", "")),
        ("reward", supervised("llama", "")),
        ("classifier", supervised("llama", "labels = ['no', 'yes']\n")),
        ("dpo", supervised("llama", "")),
        ("ppo", ppo.to_owned()),
        ("reinforce", reinforce),
        ("distill", distill.to_owned()),
    ] {
        let file = root.join(format!("{command}.toml"));
        fs::write(file, format!("{text}[placement]\ndevice = 'cpu'\nthreads = 1\n")).unwrap();
    }
    folder
}

/// The message of a run that is refused with this exit code and leaves no folder.
#[track_caller]
fn refused(root: &Path, command: &str, code: i32, set: &[&str]) -> String {
    let mut rlaif = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    rlaif.current_dir(root).env("OMP_NUM_THREADS", "1");
    rlaif.args([command, "--config", &format!("{command}.toml"), "--out", "out"]);
    for set in set {
        rlaif.args(["--set", set]);
    }
    let output = rlaif.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command}: {said}");
    assert!(!root.join("out").exists(), "{command}: {said}");
    said
}

#[test]
fn every_command_that_trains_refuses_a_run_that_does_not_fit() {
    let place = workplace();
    for command in rlaif::run::commands_with_runs() {
        let said = refused(place.path(), command, 1, &["placement.memory_gib=0.01"]);
        assert!(said.contains("error: the run needs about"), "{command}: {said}");
        assert!(said.contains("gradients and optimizer"), "{command}: {said}");
        assert!(said.contains("take a smaller model"), "{command}: {said}");
    }
    let said = refused(place.path(), "sft", 2, &["placement.memory_gib=0.0"]);
    assert!(said.contains("`placement.memory_gib` is 0; expected a positive number"), "{said}");
}

/// Writes a classifier whose weights would be 256 MiB, in a file without blocks on the disk.
fn large_classifier(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let config = json!({ "model_type": "bert", "architectures": ["SizeOfNothing"] });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let bytes = 256_u64 << 20;
    let tensor = json!({ "dtype": "F32", "shape": [bytes / 4], "data_offsets": [0, bytes] });
    let header = json!({ "bert.pooler.dense.bias": tensor }).to_string();
    let file = folder.join("model.safetensors");
    fs::write(&file, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
    let file = fs::File::options().append(true).open(file).unwrap();
    file.set_len(8 + header.len() as u64 + bytes).unwrap();
}

#[test]
fn reward_models_count_before_anything_is_loaded() {
    let place = workplace();
    large_classifier(&place.path().join("large"));
    let large = "{kind='classifier',model='large',label='x'}";
    let reward = format!("{{kind='scaled',factor=2.0,of={large}}}");
    let judge = "{kind='judge',rubric='toxicity',api={kind='policy',model='large'}}";
    for (command, key) in [("ppo", "reward"), ("reinforce", "reward"), ("dpo", "online.reward")] {
        for reward in [&*reward, judge] {
            let mut set = vec![format!("{key}={reward}"), "placement.memory_gib=0.4".to_owned()];
            // Sampled responses have no cached reference.
            set.extend((command == "dpo").then(|| "dpo.reference={type='live'}".to_owned()));
            let set: Vec<&str> = set.iter().map(String::as_str).collect();
            let said = refused(place.path(), command, 1, &set);
            assert!(said.contains("rewards 256 MiB"), "{command}: {said}");
        }
    }
    // Two parts share the weights of a classifier, and two judges do not share theirs.
    for (reward, needed) in [(large, "rewards 256 MiB"), (judge, "rewards 512 MiB")] {
        let set = format!("reward={{kind='mean',name='both',of=[{reward},{reward}]}}");
        let said = refused(place.path(), "ppo", 1, &[&set, "placement.memory_gib=0.4"]);
        assert!(said.contains(needed), "{said}");
    }
    // In half the memory for weights, only the reward's folder is wrong.
    let set = "reward={kind='classifier',model='large',dtype='bf16'}";
    let said = refused(place.path(), "ppo", 2, &[set, "placement.memory_gib=0.4"]);
    assert!(!said.contains("the run needs about"), "{said}");
}

#[test]
fn commands_that_train_nothing_count_the_models_that_they_hold() {
    let place = workplace();
    let root = place.path();
    large_classifier(&root.join("large"));
    let large = "{ kind = 'classifier', model = 'large', label = 'x' }";
    let policy = "api = { kind = 'policy', model = 'large' }";
    let data = "[data]\nfile = 'rows.jsonl'\n";
    let eval = "metrics = [{ kind = 'length' }]\n[baseline]\nmodel = 't5'\n[tuned]\nmodel = 'large'\n\
                [data]\ncorpus = 'builtin'\n";
    for (command, text, held) in [
        ("exam", format!("reward = {large}\n{data}"), "rewards 256 MiB"),
        ("label", format!("facets = [{{ name = 'f', reward = {large} }}]\n{data}"), "rewards"),
        ("candidates", format!("writers = [{{ {policy} }}]\n{data}"), "weights 256 MiB"),
        ("eval", eval.to_owned(), "weights 256 MiB"),
    ] {
        fs::write(root.join(format!("{command}.toml")), text).unwrap();
        let set = ["placement.device=cpu", "placement.memory_gib=0.1"];
        let said = refused(root, command, 1, &set);
        // Policies that write also hold the keys and values of a response.
        let writes = ["candidates", "eval"].contains(&command);
        let needed = if writes { "the run needs about" } else { "the run needs about 256 MiB" };
        assert!(said.contains(needed) && said.contains(held), "{said}");
        let said = refused(root, command, 2, &["placement.memory=0.1"]);
        assert!(said.contains("`placement.memory`") && said.contains("memory_gib"), "{said}");
        let said = refused(root, command, 2, &["device=cpu"]);
        assert!(said.contains("`device`: renamed to `placement.device`"), "{said}");
    }
}

#[test]
fn rows_and_responses_count() {
    let place = workplace();
    let limit = "placement.memory_gib=0.3";
    let long = ["data.train='long.jsonl'", "data.max_tokens=1000000", "train.batch_size=2", limit];
    let said = refused(place.path(), "sft", 1, &long);
    assert!(said.contains("error: the run needs about"), "{said}");
    let said = refused(place.path(), "ppo", 1, &["ppo.generation.max_new_tokens=100000", limit]);
    assert!(said.contains("would fit with") || said.contains("take a smaller model"), "{said}");
}
