//! Models that read each other's token ids: another vocabulary is refused by name at each place, and an
//! adapter, or a model without a tokenizer, is as good as any other.

use std::{fs, path::Path};

use rlaif::lm::Policy;
use rlaif::models::{AdapterConfig, LanguageModel, LoadOptions, TaskType};
use serde_json::{Value, json};

use crate::{
    rl::{self, command},
    support::{language_model, metrics, refusal, rows, succeeded, tokenizer},
    train::workplace,
};

/// A copy of a model whose tokenizer is of the same size, with two tokens in each other's place.
fn with_other_tokens(model: &Path, other: &Path) {
    fs::create_dir(other).unwrap();
    for file in fs::read_dir(model).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), other.join(file.file_name())).unwrap();
    }
    let path = other.join("tokenizer.json");
    let mut whole: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let pieces = whole["model"]["vocab"].as_array_mut().unwrap();
    pieces.swap(40, 41);
    fs::write(&path, whole.to_string()).unwrap();
}

fn adapter(base: &Path, folder: &Path, task: TaskType) {
    let mut model = LanguageModel::load(base, LoadOptions::default()).unwrap();
    let mut config = AdapterConfig::new(task, 2.try_into().unwrap());
    config.base_model_name_or_path = Some(base.display().to_string());
    model.adapters().add("default", config).unwrap();
    model.adapters().save("default", folder).unwrap();
}

/// Adds a token to a model's tokenizer, and returns the number of rows that the model has.
fn with_new_token(model: &Path) -> i64 {
    let path = model.join("tokenizer.json");
    let mut whole: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let config: Value =
        serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    let rows = config["vocab_size"].as_i64().unwrap();
    whole["added_tokens"].as_array_mut().unwrap().push(json!({
        "id": rows, "content": "<think>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    }));
    fs::write(&path, whole.to_string()).unwrap();
    rows
}

#[test]
fn tokens_that_only_the_tokenizer_has_get_rows_by_the_run_file() {
    let place = workplace("llama");
    let root = place.path();
    let old = with_new_token(&root.join("model"));
    let row = |i| json!({ "prompt": format!("honey {i}"), "response": "<think> bears" });
    let all: Vec<String> = (0..20).map(|i| row(i).to_string()).collect();
    fs::write(root.join("train.jsonl"), all.join("\n")).unwrap();
    let sft = |out: &str, more: &[&str]| {
        let mut all = vec!["sft", "--config", "run.toml", "--out", out, "--set", "train.steps=2"];
        all.extend(more.iter().flat_map(|set| ["--set", set]));
        command(&all).current_dir(root).output().unwrap()
    };
    let said = refusal(&sft("refused", &[]), 2);
    assert!(said.contains(&format!("ids up to {old}")), "{said}");
    assert!(said.contains("`[model.vocabulary]` with `init = \"mean\"`"), "{said}");
    assert!(!root.join("refused").exists());

    let padded = ["model.vocabulary.init=mean", "model.vocabulary.pad_to_multiple_of=16"];
    succeeded(&sft("whole", &padded));
    let model = LanguageModel::load(&root.join("whole/model"), LoadOptions::default()).unwrap();
    let size = old / 16 * 16 + 16;
    assert_eq!(model.spec().vocab_size, size);
    // The new row is trained: it differs from the mean, which those of the padding still are.
    let table = model.parameters().get("model.embed_tokens.weight").unwrap();
    assert_ne!(table.get(old), table.get(old + 1));
    // The result needs no key.
    let again = ["model.path=whole/model"];
    succeeded(&sft("again", &again));

    let lora = "model.lora={ rank = 2, modules_to_save = ['embed_tokens', 'lm_head'] }";
    succeeded(&sft("lora", &[padded[0], lora]));
    let said = refusal(&sft("no", &[padded[0], &lora.replace("lm_head", "absent")]), 2);
    assert!(said.contains("model.lora.modules_to_save") && said.contains("absent"), "{said}");
    // The adapter has the rows, and is read without the key.
    let input = json!({ "prompt": "honey", "response": "<think>" }).to_string();
    fs::write(root.join("input.jsonl"), input).unwrap();
    let arguments = ["logprobs", "--model", "lora/model", "--input", "input.jsonl"];
    let scored = rows(&command(&arguments).current_dir(root).output().unwrap()).remove(0);
    assert_eq!(scored["log_probs"].as_array().unwrap().len(), 1, "{scored}");

    let Some(python) = std::env::var_os("RLAIF_PYTHON") else { return };
    for model in ["whole/model", "lora/model"] {
        let mut verify = command(&["verify", "--json", "--trained", "none", "--rows=2"]);
        let output = verify.arg(root.join(model)).arg("--python").arg(&python).output().unwrap();
        let report = rows(&output).remove(0);
        assert_eq!(report["holds"], true, "{model}: {report}");
    }
}

#[test]
fn another_vocabulary_is_refused_by_name_wherever_ids_are_read() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let at = |name: &str| root.join(name);
    let section = "steps = 1\nbatch_size = 4\nminibatch_size = 4";
    let config = rl::place(root, "ppo", section, "");
    let policy = at("policy");
    with_other_tokens(&policy, &at("other"));
    adapter(&policy, &at("adapter"), TaskType::Seq2SeqLm);
    // Weights alone, whose vocabulary nobody knows.
    fs::create_dir(at("bare")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(policy.join(file), at("bare").join(file)).unwrap();
    }
    let key = |key: &str, model: &str| format!("{key}={:?}", at(model).display().to_string());
    let ppo = |set: &str, out: &str| rl::train("ppo", &config, &at(out), &["--set", set]);
    for (name, uses) in [("reference", "the reference reads"), ("value.model", "the value")] {
        let said = refusal(&ppo(&key(name, "other"), "no"), 2);
        assert!(said.contains("has another vocabulary") && said.contains(uses), "{said}");
        assert!(said.contains("/other") && said.contains("id 40"), "{said}");
        assert!(!at("no/metrics.jsonl").exists());
        for model in ["adapter", "bare"] {
            let out = format!("{name}-{model}");
            let said = succeeded(&ppo(&key(name, model), &out));
            assert_eq!(
                said.contains("/bare has no tokenizer, so the vocabularies"),
                model == "bare",
                "{said}"
            );
            assert_eq!(metrics(&at(&out)).len(), 1);
        }
    }

    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("[ppo", "[reinforce");
    let text = text.replace(section, "steps = 1\nbatch_size = 4\ngroup_size = 2");
    let file = at("reinforce.toml");
    fs::write(&file, text).unwrap();
    let reinforce = |set: &str, out: &str| rl::train("reinforce", &file, &at(out), &["--set", set]);
    let said = refusal(&reinforce(&key("reference", "other"), "no"), 2);
    assert!(said.contains("has another vocabulary") && said.contains("/other"), "{said}");
    succeeded(&reinforce(&key("reference", "adapter"), "reinforced"));

    // Evaluation: texts may be compared, probabilities of ids not.
    let eval = |baseline: &str, tuned: &str, more: &str, out: &str| {
        let file = at("eval.toml");
        let [baseline, tuned] = [baseline, tuned].map(|model| at(model).display().to_string());
        let text = format!(
            "{more}\nmetrics = [{{ kind = 'length' }}]\nbaseline = {{ model = '{baseline}' }}\n\
             tuned = {{ model = '{tuned}' }}\n[data]\ncorpus = 'prompts'\nfile = '{}'\ntake = 4\n\
             [generation]\nmax_new_tokens = 4\n",
            at("prompts.jsonl").display()
        );
        fs::write(&file, text).unwrap();
        let out = at(out);
        let arguments =
            ["eval", "--config", file.to_str().unwrap(), "--out", out.to_str().unwrap()];
        command(&arguments).output().unwrap()
    };
    for (baseline, tuned) in [("policy", "other"), ("other", "policy")] {
        let said = refusal(&eval(baseline, tuned, "", "no"), 2);
        assert!(said.contains("has another vocabulary"), "{said}");
        assert!(said.contains("likelihood = \"off\""), "{said}");
    }
    succeeded(&eval("policy", "other", "likelihood = 'off'", "texts"));
    succeeded(&eval("adapter", "adapter", "", "adapters"));

    // A judge reads texts, by a tokenizer of its own.
    let config = json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 2048, "eos_token_id": 2,
    });
    language_model(&at("judge"), &tokenizer("chatml"), 5, config);
    adapter(&at("judge"), &at("judge-adapter"), TaskType::CausalLm);
    let file = at("online.toml");
    for judge in ["judge", "judge-adapter"] {
        let text = format!(
            "[model]\npath = '{}'\n[data]\ntrain = '{}'\n[placement]\ndevice = 'cpu'\n\
             [dpo]\nreference = {{ type = 'live' }}\n[train]\nsteps = 1\nbatch_size = 2\n[online]\n\
             pairs = {{ generation = {{ max_new_tokens = 4 }} }}\nreward = {{ kind = 'judge', rubric = 'summary', \
             min_coverage = 1e-9, api = {{ kind = 'policy', model = '{}' }} }}\n",
            policy.display(),
            at("prompts.jsonl").display(),
            at(judge).display()
        );
        fs::write(&file, text).unwrap();
        succeeded(&rl::train("dpo", &file, &at(&format!("by-{judge}")), &[]));
    }
}
