//! `rlaif generate`, `score`, `logprobs` and `judge` read a conversation as TRL's trainers do, in any
//! form, of a model and of an adapter's folder: the
//! goldens of `crates/rlaif-run/tests/fixtures/tokens`.

use std::{
    fs,
    io::Write,
    ops::Range,
    path::Path,
    process::{Command, Stdio},
};

use rlaif::models::{AdapterConfig, Classifier, LanguageModel, LoadOptions, TaskType};
use serde_json::{Value, json};

use crate::support::{classifier, language_model, refusal, repository, rows, tokenizer};

fn golden() -> Value {
    let path = repository("crates/rlaif-run/tests/fixtures/tokens/golden.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The tokenizer of `chatml` with another post-processor and template.
fn tokenizer_of(golden: &Value, name: &str, folder: &Path) {
    let file = tokenizer("chatml").join("tokenizer.json");
    let mut whole: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let tokenizer = &golden["tokenizers"][name];
    whole["post_processor"] = tokenizer["post_processor"].clone();
    fs::write(folder.join("tokenizer.json"), whole.to_string()).unwrap();
    let config = json!({ "bos_token": golden["bos"], "eos_token": golden["eos"] });
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    fs::write(folder.join("chat_template.jinja"), tokenizer["template"].as_str().unwrap()).unwrap();
}

fn run(arguments: &[&str], input: &[Value]) -> std::process::Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rlaif"))
        .args(arguments)
        .env("OMP_NUM_THREADS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: String = input.iter().map(|row| format!("{row}\n")).collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The folder of an adapter that does not change the base it names.
fn adapter(base: &Path, folder: &Path, task: TaskType) {
    let mut config = AdapterConfig::new(task, 2.try_into().unwrap());
    config.base_model_name_or_path = Some(base.display().to_string());
    if task == TaskType::SequenceClassification {
        config.modules_to_save = vec!["score".to_owned()];
        let mut model = Classifier::load(base, LoadOptions::default()).unwrap();
        model.adapters().add("default", config).unwrap();
        model.adapters().save("default", folder).unwrap();
    } else {
        let mut model = LanguageModel::load(base, LoadOptions::default()).unwrap();
        model.adapters().add("default", config).unwrap();
        model.adapters().save("default", folder).unwrap();
    }
}

#[test]
fn generate_score_logprobs_and_judge_read_a_conversation_alike_in_any_form() {
    let golden = golden();
    let sizes = json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": 380,
        "eos_token_id": 382, "pad_token_id": 380, "initializer_range": 0.3,
    });
    for name in golden["tokenizers"].as_object().unwrap().keys() {
        let place = tempfile::tempdir().unwrap();
        let source = place.path().join("tokenizer");
        fs::create_dir(&source).unwrap();
        tokenizer_of(&golden, name, &source);
        let folder = |name: &str| place.path().join(name);
        let mut config = sizes.clone();
        config["architectures"] = json!(["LlamaForCausalLM"]);
        language_model(&folder("policy"), &source, 3, config);
        let mut config = sizes.clone();
        config["architectures"] = json!(["LlamaForSequenceClassification"]);
        config["id2label"] = json!({ "0": "reward" });
        classifier(&folder("judge"), &source, 3, config);
        adapter(&folder("policy"), &folder("policy-adapter"), TaskType::CausalLm);
        adapter(&folder("judge"), &folder("judge-adapter"), TaskType::SequenceClassification);
        for end in ["", "-adapter"] {
            let at = format!("{name}{end}");
            let [policy, judge] = ["policy", "judge"].map(|model| folder(&format!("{model}{end}")));
            in_any_form(&golden, name, &at, &policy, &judge);
        }
        let policy = folder("policy");
        let policy = ["generate", "--model", policy.to_str().unwrap(), "--input", "-"];
        let policy = [&policy[..], &["--greedy", "--max-new-tokens", "2"]].concat();
        // The flags have the names of a run file's `[prompt]`.
        let flags = ["--plain", "chat", "--system", "Be brief.", "--template", "Name {prompt}"];
        let chat = golden["rows"].as_array().unwrap().iter();
        let chat = chat.filter(|row| row["tokenizer"] == *name && row["form"] == "messages");
        for row in chat {
            let asked = [json!({ "prompt": "a prime." }), json!({ "prompt_ids": row["prompt"] })];
            let answers = rows(&run(&[&policy[..], &flags].concat(), &asked));
            assert_eq!(answers[0]["log_probs"], answers[1]["log_probs"], "{name}");
        }
        let long = [&policy[..], &["--max-new-tokens", "64"]].concat();
        let said = refusal(&run(&long, &[json!({ "prompt_ids": [5] })]), 2);
        assert!(said.contains("set --max-new-tokens to 63 or less"), "{said}");
        let flags = ["--chat-template-kwargs", "{enable_thinking}"];
        let said = refusal(&run(&[&policy[..], &flags].concat(), &[]), 2);
        assert!(said.contains("--chat-template-kwargs is {enable_thinking}"), "{said}");
    }
}

/// Each command on the rows of one tokenizer, beside the ids that they become.
fn in_any_form(golden: &Value, name: &str, at: &str, policy: &Path, judge: &Path) {
    let on = |command: &'static str, model: &Path| {
        [command, "--input", "-", "--model", model.to_str().unwrap()].map(str::to_owned)
    };
    let call = |arguments: &[String], more: &[&str], input: &[Value]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        rows(&run(&[&arguments[..], more].concat(), input))
    };
    let reward = judge.with_extension("toml");
    let read = "prompt-and-response";
    fs::write(
        &reward,
        format!("kind = 'classifier'\nmodel = '{}'\ninput = '{read}'\n", judge.display()),
    )
    .unwrap();
    let reward = ["judge", "--input", "-", "--config", reward.to_str().unwrap()];
    let reward = reward.map(str::to_owned);
    // One process for each command: the rows of every form, of which groups are alike.
    let [mut asked, mut judged, mut scored, mut learned] = [(); 4].map(|()| Groups::default());
    for row in golden["rows"].as_array().unwrap().iter().filter(|row| row["tokenizer"] == name) {
        let (pair, form) = (&row["row"], &row["form"]);
        let at = format!("{at}, {form}");
        let mut prompts =
            vec![json!({ "prompt_ids": row["prompt"] }), json!({ "prompt": pair["prompt"] })];
        let mut said = vec![json!({ "prompt": pair["prompt"], "response": pair["chosen"] })];
        if let (Some(prompt), Some(chosen)) = (pair["prompt"].as_array(), pair["chosen"].as_array())
        {
            prompts.push(json!({ "messages": prompt }));
            let whole: Vec<&Value> = prompt.iter().chain(chosen).collect();
            said.push(json!({ "messages": whole }));
        }
        // The prompt as far as it has tokens of its own, and the rest of the whole. A response that
        // is a text gets no end of sequence here.
        let whole = row["sft"].as_array().unwrap();
        let common = row["masked"].as_u64().unwrap() as usize;
        let ends = whole.len() - usize::from(form == "plain text");
        let ids = json!({ "prompt_ids": whole[..common], "response_ids": whole[common..ends] });
        asked.add(&at, &prompts);
        scored.add(&at, &[&[json!({ "ids": row["reward"][0] })][..], &said].concat());
        learned.add(&at, &[&[ids][..], &said].concat());
        judged.add(&at, &said);
    }
    // Rows of other lengths in one batch change the last digit.
    let single = ["--batch-size", "1"];
    let greedy = [&single[..], &["--greedy", "--max-new-tokens", "2"]].concat();
    asked.alike("log_probs", &call(&on("generate", policy), &greedy, &asked.rows));
    learned.alike("log_probs", &call(&on("logprobs", policy), &single, &learned.rows));
    let scores = call(&on("score", judge), &single, &scored.rows);
    scored.alike("logits", &scores);
    let verdicts = call(&reward, &[], &judged.rows);
    for ((at, rows), (_, of_score)) in judged.groups.iter().zip(&scored.groups) {
        let logit = scores[of_score.start]["logits"][0].as_f64().unwrap();
        for verdict in &verdicts[rows.clone()] {
            assert!((verdict["score"].as_f64().unwrap() - logit).abs() < 1e-6, "judge: {at}");
        }
    }
}

/// Rows of a command, in groups that should have the same answer.
#[derive(Default)]
struct Groups {
    rows: Vec<Value>,
    groups: Vec<(String, Range<usize>)>,
}

impl Groups {
    fn add(&mut self, at: &str, rows: &[Value]) {
        let start = self.rows.len();
        self.rows.extend_from_slice(rows);
        self.groups.push((at.to_owned(), start..self.rows.len()));
    }

    fn alike(&self, key: &str, answers: &[Value]) {
        for (at, rows) in &self.groups {
            for answer in &answers[rows.clone()] {
                assert_eq!(answer[key], answers[rows.start][key], "{key}: {at}");
            }
        }
    }
}
