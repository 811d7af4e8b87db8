//! `rlaif generate` and `rlaif bench generate` as their user runs them.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rlaif::{
    core::{GenerationPrompt, Message, Specials, TextCodec},
    text::HfTokenizer,
};
use serde_json::{Value, json};

use crate::support::{language_model, refusal, repository, rows, tokenizer};

fn fixture(name: &str) -> PathBuf {
    repository("fixtures/models").join(name)
}

fn run(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may refuse before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// A small random Llama with a tokenizer that has a chat template.
fn chat_folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
        "bos_token_id": 1, "eos_token_id": 2,
    });
    language_model(&path, &tokenizer("llama3"), 7, config);
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

fn input(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

#[test]
fn greedy_responses_to_ids_are_those_of_transformers() {
    for name in ["flan", "llama3"] {
        let goldens = std::fs::read_to_string(fixture(name).join("goldens.json")).unwrap();
        let goldens: Value = serde_json::from_str(&goldens).unwrap();
        let prompts: Vec<Value> = goldens["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| json!({ "prompt_ids": row["prompt_ids"] }))
            .collect();
        let model = fixture(name);
        let arguments = ["generate", "--model", model.to_str().unwrap(), "--input", "-"];
        let arguments = [&arguments[..], &["--greedy", "--max-new-tokens", "12"]].concat();
        let got = rows(&run(&arguments, &input(&prompts)));
        let want = &goldens["generation"]["runs"]["greedy"];
        assert_eq!(got.len(), prompts.len());
        for (i, row) in got.iter().enumerate() {
            assert_eq!(row["response_ids"], want["responses"][i], "{name}");
            assert_eq!(row["finish_reason"], want["finish_reasons"][i], "{name}");
            let log_probs = row["log_probs"].as_array().unwrap();
            assert_eq!(log_probs.len(), row["response_ids"].as_array().unwrap().len());
            assert!(log_probs.iter().all(|x| x.as_f64().unwrap() <= 0.));
            // Its folder has no tokenizer.
            assert!(row.get("response").is_none());
        }
    }
}

#[test]
fn rows_of_every_form_give_the_same_in_any_batch() {
    let (_folder, model) = chat_folder();
    let tokenizer = HfTokenizer::from_folder(Path::new(&model)).unwrap();
    let messages = [Message::new("user", "Hello!")];
    let chat = tokenizer.encode_chat(&messages, GenerationPrompt::Add).unwrap();
    let text = tokenizer.encode("once upon a time", Specials::Include).unwrap();
    let by_text = [
        json!({ "messages": messages }),
        json!({ "prompt": "once upon a time" }),
        json!({ "prompt_ids": [5, 6, 7], "max_new_tokens": 3 }),
        json!({ "prompt_ids": [9] }),
        json!({ "prompt": [{ "from": "human", "value": "Hello!" }] }),
    ];
    let by_ids = [
        json!({ "prompt_ids": chat }),
        json!({ "prompt_ids": text }),
        by_text[2].clone(),
        by_text[3].clone(),
        json!({ "prompt_ids": chat }),
    ];
    let base = ["generate", "--model", &model, "--input", "-", "--max-new-tokens", "9"];
    let run =
        |more: &[&str], rows_in: &[Value]| rows(&run(&[&base[..], more].concat(), &input(rows_in)));
    let got = run(&["--seed", "3"], &by_text);
    assert_eq!(run(&["--seed", "3", "--batch-size", "1"], &by_ids), got);
    assert_eq!(run(&["--seed", "3", "--batch-size", "3"], &by_text), got);
    assert_ne!(run(&["--seed", "4"], &by_text), got);
    assert!(got[2]["response_ids"].as_array().unwrap().len() <= 3);
    for row in &got {
        let ids: Vec<u32> = serde_json::from_value(row["response_ids"].clone()).unwrap();
        let text = tokenizer.decode(&ids, Specials::Exclude).unwrap();
        assert_eq!(row["response"], json!(text));
    }
}

/// As data sets have them, and TRL takes them.
#[test]
fn tools_may_be_json_text_and_options_null() {
    let (_folder, model) = chat_folder();
    let messages = [Message::new("user", "Hello!")];
    let tools = json!([{ "name": "clock" }]);
    let rows_in = [
        json!({ "messages": messages, "tools": tools, "chat_template_kwargs": {} }),
        json!({ "messages": messages, "tools": tools.to_string(), "chat_template_kwargs": null }),
    ];
    let base = ["generate", "--model", &model, "--input", "-", "--max-new-tokens", "5", "--greedy"];
    let got = rows(&run(&base, &input(&rows_in)));
    assert_eq!(got[0], got[1]);
    for (key, expected) in [
        ("tools", "`tools` should be a list of JSON schemas"),
        ("chat_template_kwargs", "`chat_template_kwargs` should be an object"),
        ("max_new_tokens", "`max_new_tokens`: invalid type"),
    ] {
        let row = json!({ "prompt": "a", key: "x" });
        let said = refusal(&run(&base, &input(&[row])), 2);
        assert!(said.contains("line 1") && said.contains(expected), "{said}");
    }
}

#[test]
fn a_stop_string_ends_the_response_and_is_left_out() {
    let (_folder, model) = chat_folder();
    let tokenizer = HfTokenizer::from_folder(Path::new(&model)).unwrap();
    let base = ["generate", "--model", &model, "--input", "-", "--max-new-tokens", "24"];
    let rows_in = [json!({ "prompt_ids": [5, 6, 7] })];
    let free = rows(&run(&[&base[..], &["--eos", "ignored"]].concat(), &input(&rows_in)));
    let text = free[0]["response"].as_str().unwrap().to_owned();
    let letters: Vec<char> = text.chars().filter(char::is_ascii_alphanumeric).collect();
    let stop = letters[letters.len() / 2].to_string();
    let before = &text[..text.find(&stop).unwrap()];
    let got = rows(&run(
        &[&base[..], &["--eos", "ignored", "--stop-strings", &stop]].concat(),
        &input(&rows_in),
    ));
    assert_eq!(got[0]["response"], json!(before));
    assert_eq!(got[0]["finish_reason"], "stop");
    let ids: Vec<u32> = serde_json::from_value(got[0]["response_ids"].clone()).unwrap();
    assert!(tokenizer.decode(&ids, Specials::Exclude).unwrap().contains(&stop));
    assert_eq!(
        free[0]["response_ids"].as_array().unwrap()[..ids.len()],
        got[0]["response_ids"].as_array().unwrap()[..]
    );
    // One that never comes.
    let never = rows(&run(
        &[&base[..], &["--eos", "ignored", "--stop-strings", "☃☃☃"]].concat(),
        &input(&rows_in),
    ));
    assert_eq!(never, free);
    assert_eq!(never[0]["finish_reason"], "length");

    // Streamed, the same text; a prompt may begin as a flag does.
    let arguments = ["generate", "--model", &model, "--prompt", "-once", "--max-new-tokens", "24"];
    let streamed = run(&arguments, "");
    assert!(streamed.status.success());
    let row = [json!({ "prompt": "-once" })];
    let want = rows(&run(&base, &input(&row)));
    let streamed = String::from_utf8(streamed.stdout).unwrap();
    assert_eq!(streamed, format!("{}\n", want[0]["response"].as_str().unwrap()));
}

#[test]
fn bad_ids_do_not_follow_one_another() {
    let model = fixture("llama3");
    let base = ["generate", "--model", model.to_str().unwrap(), "--input", "-", "--greedy"];
    let base = [&base[..], &["--max-new-tokens", "8", "--eos", "ignored"]].concat();
    let ids = |more: &[&str]| -> Vec<u32> {
        let got = rows(&run(&[&base[..], more].concat(), "{\"prompt_ids\": [5, 6]}\n"));
        serde_json::from_value(got[0]["response_ids"].clone()).unwrap()
    };
    let free = ids(&[]);
    let (pair, single) = (format!("{}, {}", free[0], free[1]), free[0].to_string());
    let without = ids(&["--bad-ids", &pair]);
    assert_eq!(without[0], free[0], "one of a pair may come");
    assert!(!without.windows(2).any(|two| *two == free[..2]), "{free:?} {without:?}");
    assert!(!ids(&["--bad-ids", &pair, "--bad-ids", &single]).contains(&free[0]));
}

#[test]
fn a_special_token_ends_a_response_by_its_id_alone() {
    let (_folder, model) = chat_folder();
    let tokenizer = HfTokenizer::from_folder(Path::new(&model)).unwrap();
    // As good as uniform, so that special tokens come up.
    let base = ["generate", "--model", &model, "--input", "-", "--eos", "ignored", "--seed", "5"];
    let base = [&base[..], &["--max-new-tokens", "200", "--temperature", "50"]].concat();
    let row = |more: &[&str]| {
        rows(&run(&[&base[..], more].concat(), "{\"prompt_ids\": [5, 6]}\n")).remove(0)
    };
    let ids: Vec<u32> = serde_json::from_value(row(&[])["response_ids"].clone()).unwrap();
    let decode = |id: u32, specials| tokenizer.decode(&[id], specials).unwrap();
    let special = |id: &u32| decode(*id, Specials::Exclude).is_empty();
    let at = ids.iter().position(special).expect("the draw comes upon one");
    let text = decode(ids[at], Specials::Include);
    assert!(text.starts_with("<|"), "{text}");
    assert_eq!(row(&["--stop-strings", &text])["finish_reason"], "length");
    let by_id = row(&["--stop-ids", &ids[at].to_string()]);
    assert_eq!(by_id["finish_reason"], "stop");
    assert_eq!(by_id["response_ids"].as_array().unwrap().len(), at + 1);
}

#[test]
fn bad_input_is_refused_by_name() {
    let model = fixture("llama3");
    let model = model.to_str().unwrap();
    let base = ["generate", "--model", model, "--input", "-", "--max-new-tokens", "4"];
    let good = "{\"prompt_ids\": [5]}\n";
    for (row, want) in [
        ("{\"prompt_ids\": []}", "has no token"),
        ("{\"prompt_ids\": [96]}", "outside the vocabulary of 96"),
        ("{\"prompt\": \"a\"}", "no tokenizer"),
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "no tokenizer"),
        ("{\"prompt\": \"a\", \"prompt_ids\": [1]}", "expected either `prompt`"),
        ("{\"prompts\": [1]}", "unknown field `prompts`"),
        ("{\"prompt_ids\": [5], \"max_new_tokens\": 0}", "max_new_tokens"),
    ] {
        let error = refusal(&run(&base, &format!("{good}{row}\n")), 2);
        assert!(error.contains(want) && error.contains("line 2"), "{row}: {error}");
    }
    // As long as the context, and with a response that leaves no room.
    for length in [64, 61] {
        let row = input(&[json!({ "prompt_ids": vec![5; length] })]);
        let error = refusal(&run(&base, &row), 2);
        assert!(error.contains("the model's context is 64"), "{error}");
    }
    for (more, want) in [
        (&["--temperature", "0"][..], "sampling.temperature"),
        (&["--top-p", "1.5"], "sampling.top_p"),
        (&["--top-k", "0"], "sampling.top_k"),
        (&["--greedy", "--top-k", "3"], "--top-k"),
        (&["--min-new-tokens", "5"], "min_new_tokens"),
        (&["--batch-size", "0"], "batch_size"),
        (&["--stop-strings", "x"], "tokenizer"),
        (&["--stop-ids", "96"], "stop_ids"),
        (&["--bad-ids", "5,96"], "bad_ids"),
        (&["--bad-ids", "5,,6"], "--bad-ids"),
        (&["--prompt", "x"], "--input"),
    ] {
        let error = refusal(&run(&[&base[..], more].concat(), good), 2);
        assert!(error.contains(want), "{more:?}: {error}");
    }
    assert!(refusal(&run(&base[..3], ""), 2).contains("--input"));
    // Nothing in, nothing out.
    assert!(rows(&run(&base, "")).is_empty());
}

#[test]
fn the_benchmark_reports_its_numbers() {
    let model = fixture("flan");
    let base = ["bench", "generate", "--policy", model.to_str().unwrap(), "--steps", "2"];
    let lengths = ["--batch", "3", "--prompt-len", "5,6,7", "--new-tokens", "4", "--json"];
    let got = rows(&run(&[&base[..], &lengths].concat(), ""));
    let number = |name: &str| got[0][name].as_f64().unwrap();
    assert!((number("tokens_per_s") * number("sec_per_step") - 12.).abs() < 1e-6);
    assert_eq!(got[0]["phases"]["generate"], got[0]["sec_per_step"]);
    assert!(number("peak_memory_bytes") > 1e6);
    let mixed = ["--batch", "3", "--rows", "10", "--prompt-len", "1-9", "--new-tokens", "1-5"];
    assert!(run(&[&base[..], &mixed].concat(), "").status.success());
    let wrong = ["--prompt-len", "5,6", "--batch", "3"];
    assert!(refusal(&run(&[&base[..], &wrong].concat(), ""), 2).contains("2 lengths for 3 rows"));
}
