//! A LoRA adapter's folder wherever a model is named.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use rlaif::models::{AdapterConfig, LanguageModel, LoadOptions, TaskType};
use rlaif_hub_testing::{HubServer, Kind};
use serde_json::{Value, json};

use crate::support::{language_model, refusal, repository, rows, succeeded, tokenizer};

fn run(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.args(arguments).current_dir(folder).env("HF_HUB_OFFLINE", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may refuse before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn log_probs(folder: &Path, model: &[&str]) -> Vec<f64> {
    let row = json!({ "prompt_ids": [5, 6, 7], "response_ids": [8, 9, 10] }).to_string();
    let rows = rows(&run(folder, &[&["logprobs", "--input", "-"], model].concat(), &row));
    rows[0]["log_probs"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// peft's adapters of the fixtures, whose logits `rlaif-models` compares with peft's.
#[test]
fn an_adapters_folder_stands_for_its_base_with_the_adapter_on_it() {
    let root = repository("");
    let (base, adapter) = ("fixtures/models/llama3", "fixtures/adapters/llama3-a");
    let wanted = log_probs(&root, &["--model", base, "--adapter", adapter]);
    assert_ne!(wanted, log_probs(&root, &["--model", base]));
    assert_eq!(wanted, log_probs(&root, &["--model", adapter]));
    assert_eq!(wanted, log_probs(&root, &["--model", adapter, "--base", base]));

    let elsewhere = tempfile::tempdir().unwrap();
    let merged = elsewhere.path().join("merged");
    let out = merged.to_str().unwrap();
    succeeded(&run(&root, &["merge", adapter, "--out", out], ""));
    let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-5;
    assert!(log_probs(&root, &["--model", out]).iter().zip(&wanted).all(close));

    let said = run(&root, &["inspect", adapter], "");
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(said["adapter"]["base"], base);
    assert_eq!(said["adapter"]["rank"], 4);

    // Its base is not to be found from another folder.
    let full = root.join(adapter);
    let full = full.to_str().unwrap();
    let refused = refusal(&run(elsewhere.path(), &["inspect", full], ""), 2);
    assert!(refused.contains("is an adapter on `fixtures/models/llama3`"), "{refused}");
    assert!(refused.contains("--base"), "{refused}");
    for (arguments, expected) in [
        (["inspect", base, "--base", base], "is a whole model"),
        (["merge", base, "--out", "none"], "adapter_config.json"),
        (["inspect", adapter, "--base", adapter], "merge the latter first"),
    ] {
        let refused = refusal(&run(&root, &arguments, ""), 2);
        assert!(refused.contains(expected), "{arguments:?}: {refused}");
    }
}

#[test]
fn an_adapter_that_a_run_wrote_is_scored_by_rewards_and_trained_further() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let config = json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64, "eos_token_id": 2, "pad_token_id": 0,
    });
    language_model(&folder.join("model"), &tokenizer("llama3"), 5, config);
    let pair_or_row = json!({
        "prompt": "Hello, my", "chosen": " friend.", "rejected": " enemy.", "response": " friend.",
    });
    fs::write(folder.join("pairs.jsonl"), format!("{pair_or_row}\n").repeat(4)).unwrap();
    fs::write(folder.join("texts.jsonl"), "{\"text\": \"Hi\"}\n").unwrap();
    fs::write(folder.join("judged.jsonl"), "{\"prompt\": \"Hi\", \"response\": \"Yo\"}\n").unwrap();
    let recipe = |model: &str| {
        format!(
            "seed = 1\n[placement]\ndevice = 'cpu'\n[model]\n{model}\n[data]\ntrain = 'pairs.jsonl'\n\
             [train]\nsteps = 2\nbatch_size = 4\n"
        )
    };
    let train = |command: &str, model: &str, out: &str| {
        fs::write(folder.join("run.toml"), recipe(model)).unwrap();
        run(folder, &[command, "--config", "run.toml", "--out", out], "")
    };
    let trained = |command: &str, model: &str, out: &str| {
        succeeded(&train(command, model, out));
        assert!(folder.join(out).join("model/adapter_model.safetensors").exists(), "{out}");
    };
    let lora = "path = 'model'\nlora = { rank = 2 }";

    trained("reward", lora, "rm");
    let score = |model: &[&str]| {
        let arguments = [&["score", "--input", "texts.jsonl"], model].concat();
        rows(&run(folder, &arguments, ""))[0]["logits"][0].as_f64().unwrap()
    };
    let wanted = score(&["--model", "rm/model"]);
    assert_eq!(wanted, score(&["--model", "model", "--adapter", "rm/model"]));
    for (name, table) in [
        ("a", "model = 'rm/model'"),
        ("b", "model = 'model'\nadapter = 'rm/model'"),
        ("c", "model = 'rm/model'\nbase = 'model'"),
    ] {
        fs::write(folder.join("reward.toml"), format!("kind = 'classifier'\n{table}\n")).unwrap();
        let arguments = ["judge", "--config", "reward.toml", "--input", "judged.jsonl"];
        assert!(rows(&run(folder, &arguments, ""))[0]["score"].is_f64(), "{name}");
    }
    succeeded(&run(folder, &["merge", "rm/model", "--out", "rm/merged"], ""));
    assert!((score(&["--model", "rm/merged"]) - wanted).abs() < 1e-5);
    trained("reward", "path = 'rm/model'", "rm-2");
    assert_ne!(score(&["--model", "rm-2/model"]), wanted);

    trained("dpo", lora, "dpo");
    trained("dpo", "path = 'dpo/model'", "dpo-2");
    trained("dpo", "path = 'model'\nadapter = 'dpo/model'", "dpo-3");
    let weights = |run: &str| fs::read(folder.join(run).join("model/adapter_model.safetensors"));
    assert_eq!(weights("dpo-2").unwrap(), weights("dpo-3").unwrap());
    assert_ne!(weights("dpo").unwrap(), weights("dpo-2").unwrap());
    // It names the base that it was trained on, by a name that holds anywhere.
    fs::rename(folder.join("model"), folder.join("moved")).unwrap();
    trained("dpo", "path = 'dpo/model'\nbase = 'moved'", "dpo-5");
    let moved = folder.join("moved").canonicalize().unwrap();
    let config = fs::read(folder.join("dpo-5/model/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let named = Path::new(config["base_model_name_or_path"].as_str().unwrap());
    assert_eq!(named.canonicalize().unwrap(), moved);
    assert!(named.is_absolute());
    let elsewhere = tempfile::tempdir().unwrap();
    let adapter = folder.join("dpo-5/model");
    succeeded(&run(elsewhere.path(), &["inspect", adapter.to_str().unwrap()], ""));
    fs::rename(folder.join("moved"), folder.join("model")).unwrap();
    // The benches take it as well, under each of its names.
    let names = [
        &["--policy", "dpo/model"][..],
        &["--model", "model", "--adapter", "dpo/model"],
        &["--model", "dpo/model", "--base", "model"],
    ];
    for (bench, name) in [
        &["generate", "--prompt-len", "4", "--steps", "1"][..],
        &["sft", "--prompt-len", "4", "--steps", "1"],
        &["dpo", "--prompt-len", "4", "--steps", "1"],
        &[
            "ppo",
            "--prompt-len",
            "4",
            "--steps",
            "1",
            "--minibatch-size",
            "2",
            "--reward",
            "rm/model",
        ],
        &["reinforce", "--prompt-len", "4", "--steps", "1", "--group-size", "2"],
    ]
    .into_iter()
    .zip(names.into_iter().cycle())
    {
        let sizes = ["--batch-size", "2", "--new-tokens", "3", "--json"];
        let arguments = [&["bench"][..], bench, &sizes, name].concat();
        succeeded(&run(folder, &arguments, ""));
    }
    // The head of a reward model's adapter is of no use to a policy.
    trained("dpo", "path = 'model'\nadapter = 'rm/model'", "dpo-4");
    trained("sft", "path = 'dpo-4/model'", "sft");
    // A fresh adapter, and a head, on an adapter need it merged.
    let refused = refusal(&train("dpo", "path = 'dpo/model'\nlora = { rank = 2 }", "no"), 2);
    assert!(refused.contains("rlaif merge"), "{refused}");
    let refused = refusal(&train("reward", "path = 'dpo/model'", "no"), 2);
    assert!(refused.contains("rlaif merge"), "{refused}");
}

/// An adapter of the hub on a base of the hub, and the base's named chat template, which lies in a
/// folder of the repository.
#[test]
fn adapters_and_named_templates_come_from_the_hub() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let config = json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64, "eos_token_id": 2, "pad_token_id": 0,
    });
    language_model(&folder.join("base"), &tokenizer("chatml"), 5, config);
    let templates = folder.join("base/additional_chat_templates");
    fs::create_dir_all(&templates).unwrap();
    fs::write(templates.join("rag.jinja"), "{% for m in messages %}~{{ m.content }}{% endfor %}")
        .unwrap();
    let mut model = LanguageModel::load(&folder.join("base"), LoadOptions::default()).unwrap();
    let mut config = AdapterConfig::new(TaskType::CausalLm, 2.try_into().unwrap());
    config.base_model_name_or_path = Some("org/base".to_owned());
    model.adapters().add("default", config).unwrap();
    model.adapters().save("default", &folder.join("adapter")).unwrap();

    let server = HubServer::start().unwrap();
    for name in ["base", "adapter"] {
        let id = format!("org/{name}");
        server.commit_folder(Kind::Model, &id, "main", &folder.join(name)).unwrap();
    }
    let home = folder.join("cache");
    let ask = |model: &[&str], offline: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
        command.args(["generate", "--greedy", "--max-new-tokens", "3", "--input", "-"]).args(model);
        command.args(["--chat-template", "rag"]).current_dir(folder);
        command.env("HF_ENDPOINT", server.endpoint()).env("HF_HOME", &home);
        command.env("HF_TOKEN", "").env("HF_HUB_OFFLINE", offline);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let row = json!({ "messages": [{ "role": "user", "content": "Hi" }] }).to_string();
        let _ = child.stdin.take().unwrap().write_all(row.as_bytes());
        rows(&child.wait_with_output().unwrap())
    };
    let local = ask(&["--model", "base", "--adapter", "adapter"], "1");
    assert_eq!(ask(&["--model", "org/adapter"], "0"), local);
    assert_eq!(ask(&["--model", "org/base", "--adapter", "org/adapter"], "0"), local);
    // What was fetched is there without a network.
    assert_eq!(ask(&["--model", "org/adapter"], "1"), local);
}
