//! `rlaif generate` and `rlaif score` read a conversation as TRL's trainers do, in any form: the
//! goldens of `crates/rlaif-run/tests/fixtures/tokens`.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

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
    whole["post_processor"] = golden["post_processors"][name].clone();
    fs::write(folder.join("tokenizer.json"), whole.to_string()).unwrap();
    let config = json!({ "bos_token": golden["bos"], "eos_token": golden["eos"] });
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    fs::write(folder.join("chat_template.jinja"), golden["template"].as_str().unwrap()).unwrap();
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

#[test]
fn generate_and_score_read_a_conversation_alike_in_any_form() {
    let golden = golden();
    let sizes = json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": 380,
        "eos_token_id": 382, "pad_token_id": 380, "initializer_range": 0.3,
    });
    for name in ["adds a beginning", "adds an end", "adds nothing"] {
        let place = tempfile::tempdir().unwrap();
        let source = place.path().join("tokenizer");
        fs::create_dir(&source).unwrap();
        tokenizer_of(&golden, name, &source);
        let (policy, judge) = (place.path().join("policy"), place.path().join("judge"));
        let mut config = sizes.clone();
        config["architectures"] = json!(["LlamaForCausalLM"]);
        language_model(&policy, &source, 3, config);
        let mut config = sizes.clone();
        config["architectures"] = json!(["LlamaForSequenceClassification"]);
        config["id2label"] = json!({ "0": "reward" });
        classifier(&judge, &source, 3, config);
        let policy = ["generate", "--model", policy.to_str().unwrap(), "--input", "-"];
        let policy = [&policy[..], &["--greedy", "--max-new-tokens", "2"]].concat();
        let judge = ["score", "--model", judge.to_str().unwrap(), "--input", "-"];

        let of_tokenizer = golden["rows"].as_array().unwrap().iter();
        for row in of_tokenizer.filter(|row| row["tokenizer"] == name) {
            let (pair, form) = (&row["row"], &row["form"]);
            let mut asked =
                vec![json!({ "prompt": pair["prompt"] }), json!({ "prompt_ids": row["prompt"] })];
            let said = json!({ "prompt": pair["prompt"], "response": pair["chosen"] });
            let mut judged = vec![said, json!({ "ids": row["reward"][0] })];
            if let (Some(prompt), Some(said)) =
                (pair["prompt"].as_array(), pair["chosen"].as_array())
            {
                asked.push(json!({ "messages": prompt }));
                let whole: Vec<&Value> = prompt.iter().chain(said).collect();
                judged.push(json!({ "messages": whole }));
            }
            let answers = rows(&run(&policy, &asked));
            let scores = rows(&run(&judge, &judged));
            for (answer, score) in answers.iter().zip(&scores) {
                assert_eq!(
                    answer["log_probs"], answers[1]["log_probs"],
                    "generate: {name}, {form}"
                );
                assert_eq!(score["logits"], scores[1]["logits"], "score: {name}, {form}");
            }
        }
        // The flags have the names of a run file's `[prompt]`.
        let flags =
            ["--plain", "chat", "--system", "Be brief.", "--prompt-template", "Name {prompt}"];
        let chat = golden["rows"].as_array().unwrap().iter();
        let chat = chat.filter(|row| row["tokenizer"] == name && row["form"] == "messages");
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
