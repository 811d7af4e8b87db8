//! The `rlaif` command as its user runs it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rlaif::{
    models::{LanguageModel, SaveOptions},
    tch::Tensor,
    text::HfTokenizer,
};
use rlaif_hub_testing::{HubServer, Kind as RepoKind, Visibility};
use serde_json::{Value, json};

use crate::support::{classifier, language_model, refusal, repository, rows, tokenizer};

fn fixture(name: &str) -> PathBuf {
    repository("fixtures").join(name)
}

fn run(arguments: &[&str], input: impl AsRef<[u8]>, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    // Tests may run offline; the hub here is a server of this test.
    command.env_remove("HF_HUB_OFFLINE").env_remove("TRANSFORMERS_OFFLINE");
    command.args(arguments).envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may refuse before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_ref());
    child.wait_with_output().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// A folder as `facebook/roberta-hate-speech-dynabench-r4-target` has it: no tokenizer.json, labels
/// by name; weights are random and few.
fn roberta_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let config = json!({
        "model_type": "roberta", "architectures": ["RobertaForSequenceClassification"],
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 34, "type_vocab_size": 1,
        "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
        "initializer_range": 0.3, "id2label": { "0": "nothate", "1": "hate" },
    });
    classifier(&path, &tokenizer("roberta"), 5, config);
    assert!(!path.join("tokenizer.json").exists());
    folder
}

const TEXTS: [&str; 6] = [
    "I like you.",
    "You are terrible and i hate you.",
    "x",
    "A long text: the quick brown fox jumps over the lazy dog, again and again and again, and then \
     once more because it can, until nobody counts any longer how often it has jumped.",
    "Grüße aus Köln 🙂",
    "   leading spaces",
];

#[test]
fn scores_in_a_batch_are_those_one_by_one() {
    let folder = roberta_folder();
    let model = folder.path().join("model");
    let model = model.to_str().unwrap();
    let input: String = TEXTS.iter().map(|text| format!("{}\n", json!({ "text": text }))).collect();
    let batched = rows(&run(&["score", "--model", model, "--input", "-"], &input, &[]));
    assert_eq!(batched.len(), TEXTS.len());
    let single = ["score", "--model", model, "--input", "-", "--batch-size", "1"];
    let single = rows(&run(&single, &input, &[]));
    // So many that 64 times that is 0 in 64 bits.
    let all = ["score", "--model", model, "--input", "-", "--batch-size", "288230376151711744"];
    assert_eq!(rows(&run(&all, &input, &[])).len(), TEXTS.len());
    for (a, b) in batched.iter().zip(&single) {
        let (a_logits, b_logits) = (numbers(&a["logits"]), numbers(&b["logits"]));
        for (x, y) in a_logits.iter().zip(&b_logits) {
            assert!((x - y).abs() < 1e-5, "{a} {b}");
        }
        let p = a["probabilities"].as_object().unwrap();
        let (not, hate) = (p["nothate"].as_f64().unwrap(), p["hate"].as_f64().unwrap());
        assert!((not + hate - 1.).abs() < 1e-5);
        let odds = (a_logits[1] - a_logits[0]).exp();
        assert!((hate / not - odds).abs() < 1e-3 * (1. + odds), "{a}");
    }
    // The rows differ, so their order is seen to be kept.
    let mut logits: Vec<String> = batched.iter().map(|row| row["logits"].to_string()).collect();
    logits.dedup();
    assert_eq!(logits.len(), TEXTS.len());
}

/// Sets one row of a matrix, or a vector, to a number so large that sums overflow.
fn poison(model: &Path, tensor: &str, row: usize) {
    let file = model.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensors = header.as_object().unwrap();
    let (_, found) = tensors.iter().find(|(name, _)| name.ends_with(tensor)).unwrap();
    assert_eq!(found["dtype"], "F32");
    let shape = found["shape"].as_array().unwrap();
    let width = shape[shape.len() - 1].as_u64().unwrap() as usize;
    let start = found["data_offsets"][0].as_u64().unwrap() as usize;
    let start = 8 + length + start + row * width * 4;
    for number in bytes[start..start + width * 4].chunks_mut(4) {
        number.copy_from_slice(&3e38f32.to_le_bytes());
    }
    fs::write(file, bytes).unwrap();
}

/// Issues 18 and 25: such results were written as null, with exit code 0.
#[test]
fn a_result_that_is_not_finite_ends_the_command_with_its_row_and_its_model() {
    let folder = roberta_folder();
    let model = folder.path().join("model");
    poison(&model, "word_embeddings.weight", 9);
    let input = "{\"ids\": [0, 5, 2]}\n\n{\"ids\": [0, 9, 2]}\n";
    let output = run(&["score", "--model", model.to_str().unwrap(), "--input", "-"], input, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let told = format!(
        "standard input, line 3: the result of {}: `logits[0]` = NaN is not a finite number",
        model.display()
    );
    assert!(said.contains(&told), "{said}");
    // The row before it was computed, and is there.
    let written = String::from_utf8(output.stdout).unwrap();
    assert_eq!(written.lines().count(), 1, "{written}");
    assert!(!written.contains("null"), "{written}");

    let model = folder.path().join("llama");
    fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("models/llama2").join(file), model.join(file)).unwrap();
    }
    poison(&model, "model.norm.weight", 0);
    let input = "{\"prompt_ids\": [5, 9], \"response_ids\": [6]}\n";
    let output = run(&["logprobs", "--model", model.to_str().unwrap(), "--input", "-"], input, &[]);
    let said = refusal(&output, 1);
    assert!(said.contains("line 1: ") && said.contains("is not a finite number"), "{said}");

    // `generate` computes short prompts first; the row is still that of the input.
    let model = folder.path().join("neox");
    fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("models/gpt-neox").join(file), model.join(file)).unwrap();
    }
    poison(&model, "embed_in.weight", 9);
    let input = "{\"prompt_ids\": [5, 6, 7]}\n\n{\"prompt_ids\": [9]}\n";
    let arguments = ["generate", "--max-new-tokens", "2", "--input", "-", "--model"];
    let arguments = [&arguments[..], &[model.to_str().unwrap()]].concat();
    let said = refusal(&run(&arguments, input, &[]), 1);
    let told = format!("{}: the logits of standard input, line 3 are not finite", model.display());
    assert!(said.contains(&told), "{said}");
}

#[test]
fn scores_of_ids_are_the_goldens_of_transformers() {
    let folder = fixture("models/roberta");
    let goldens = goldens("roberta");
    let input: String = rows_of(&goldens, "right")
        .iter()
        .map(|ids| format!("{}\n", json!({ "ids": ids })))
        .collect();
    let model = folder.to_str().unwrap();
    let got = rows(&run(&["score", "--model", model, "--input", "-"], &input, &[]));
    let want = Vec::<Vec<f64>>::try_from(&goldens["logits"]).unwrap();
    for (got, want) in got.iter().zip(&want) {
        for (got, want) in numbers(&got["logits"]).iter().zip(want) {
            assert!((got - want).abs() < 1e-4);
        }
    }
    // One label: one logit.
    let model = fixture("models/llama-reward");
    let got = run(
        &["score", "--model", model.to_str().unwrap(), "--input", "-"],
        "{\"ids\": [5, 6, 7]}\n",
        &[],
    );
    assert_eq!(rows(&got)[0]["logits"].as_array().unwrap().len(), 1);
}

fn goldens(name: &str) -> std::collections::BTreeMap<String, Tensor> {
    let path = fixture("models").join(name).join("goldens.safetensors");
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

fn rows_of(goldens: &std::collections::BTreeMap<String, Tensor>, name: &str) -> Vec<Vec<i64>> {
    let ids = Vec::<Vec<i64>>::try_from(&goldens[&format!("{name}.input_ids")]).unwrap();
    let mask = Vec::<Vec<i64>>::try_from(&goldens[&format!("{name}.mask")]).unwrap();
    let real = |(ids, mask): (&Vec<i64>, &Vec<i64>)| {
        ids.iter().zip(mask).filter(|(_, m)| **m == 1).map(|(id, _)| *id).collect()
    };
    ids.iter().zip(&mask).map(real).collect()
}

#[test]
fn log_probs_of_ids_are_the_goldens_of_transformers() {
    for (name, adapter) in
        [("llama3", None), ("flan", None), ("qwen3", None), ("llama3", Some("llama3-a"))]
    {
        let goldens = goldens(name);
        let causal = goldens.contains_key("right.input_ids");
        let prompts: Vec<Vec<i64>> = match causal {
            true => {
                let lengths = Vec::<i64>::try_from(&goldens["prompt_lengths"]).unwrap();
                let rows = rows_of(&goldens, "right");
                rows.iter().zip(lengths).map(|(row, n)| row[..n as usize].to_vec()).collect()
            }
            false => rows_of(&goldens, "encoder"),
        };
        let mut rest = Vec::<i64>::try_from(&goldens["response_ids"]).unwrap().into_iter();
        let lengths: Vec<usize> = match causal {
            true => {
                let lengths = Vec::<i64>::try_from(&goldens["response_lengths"]).unwrap();
                lengths.into_iter().map(|n| n as usize).collect()
            }
            false => rows_of(&goldens, "decoder").iter().map(Vec::len).collect(),
        };
        let input: String = prompts
            .iter()
            .zip(&lengths)
            .map(|(prompt, &n)| {
                let response: Vec<i64> = rest.by_ref().take(n).collect();
                format!("{}\n", json!({ "prompt_ids": prompt, "response_ids": response }))
            })
            .collect();
        let model = fixture("models").join(name);
        let mut arguments = vec!["logprobs", "--model", model.to_str().unwrap(), "--input", "-"];
        let adapter = adapter.map(|name| fixture("adapters").join(name));
        if let Some(adapter) = &adapter {
            arguments.extend(["--adapter", adapter.to_str().unwrap()]);
        }
        let got = rows(&run(&arguments, &input, &[]));
        let flat: Vec<f64> = got.iter().flat_map(|row| numbers(&row["log_probs"])).collect();
        let want = Vec::<f64>::try_from(&goldens["response.log_probs"]).unwrap();
        let same = flat.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-4);
        assert_eq!(flat.len(), want.len());
        // With the adapter the numbers are others.
        assert_eq!(same, adapter.is_none(), "{name}");
        for row in &got {
            let sum: f64 = numbers(&row["log_probs"]).iter().sum();
            // The numbers are written with the digits of an f32.
            assert!((sum - row["sum"].as_f64().unwrap()).abs() < 1e-5);
            assert_eq!(numbers(&row["entropy"]).len(), numbers(&row["log_probs"]).len());
        }
    }
}

#[test]
fn text_goes_through_the_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let config = json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64,
    });
    language_model(&path, &tokenizer("llama3"), 5, config);
    let tokenizer = HfTokenizer::from_folder(&path).unwrap();
    let path = path.to_str().unwrap();
    use rlaif::core::{Specials, TextCodec};
    let (prompt, response) = ("Hello there", " friend");
    let prompt_ids = tokenizer.encode(prompt, Specials::Include).unwrap();
    let response_ids = tokenizer.encode(response, Specials::Exclude).unwrap();
    let input = format!(
        "{}\n\n{}\n",
        json!({ "prompt": prompt, "response": response }),
        json!({ "prompt_ids": prompt_ids, "response_ids": response_ids }),
    );
    let got = rows(&run(&["logprobs", "--model", path, "--input", "-"], &input, &[]));
    assert_eq!(got.len(), 2);
    assert_eq!(got[0], got[1]);
}

#[test]
fn inspect_tells_what_a_folder_holds() {
    let model = fixture("models/llama3");
    let output = run(&["inspect", model.to_str().unwrap()], "", &[]);
    let got: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(got["architecture"], "LlamaForCausalLM");
    assert_eq!(got["model_type"], "llama");
    assert_eq!(got["dtype"], "f32");
    assert_eq!(got["vocab_size"], 96);
    assert_eq!(got["context"], 64);
    assert_eq!(got["eos_token_ids"], json!([26, 51]));
    // 96·32 + 2 · (2·32·32 + 2·32·16 + 3·32·48 + 2·32) + 32, by hand.
    assert_eq!(got["parameters"], 96 * 32 + 2 * (2 * 1024 + 2 * 512 + 3 * 1536 + 64) + 32);
    let memory = got["memory"].as_object().unwrap();
    assert_eq!(memory["f32"], got["parameters"].as_u64().unwrap() * 4);
    assert!(memory["nf4"].as_u64() < memory["bf16"].as_u64());
    let supported = got["supported"].as_array().unwrap();
    assert!(supported.contains(&json!("policy")) && supported.contains(&json!("gguf")));
    let files: Vec<&str> =
        got["files"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert!(files.contains(&"model.safetensors") && files.contains(&"config.json"));
}

/// The weights are those that bitsandbytes makes of the same model.
#[test]
fn a_model_in_4_or_8_bits_answers_as_one_that_bitsandbytes_saved() {
    let row = r#"{"prompt_ids": [5, 6, 7], "response_ids": [8, 9, 10]}"#;
    let sum = |name: &str, flags: &[&str]| {
        let model = fixture(&format!("models/{name}"));
        let start = ["logprobs", "--model", model.to_str().unwrap(), "--input", "-"];
        let output = run(&[&start[..], flags].concat(), row, &[]);
        let got: Value = serde_json::from_slice(&output.stdout).unwrap();
        got["sum"].as_f64().unwrap()
    };
    let plain = sum("llama3", &[]);
    let quantized = |format| sum("llama3", &["--quantization", format]);
    let (got, want) = (quantized("nf4"), sum("nf4-llama3", &[]));
    assert!((got - want).abs() < 1e-4, "{got} and {want}");
    assert!((got - plain).abs() > 1e-4, "{got} and {plain}");
    // That one was saved from weights in f16, whose rows have other scales.
    let (got, want) = (quantized("int8"), sum("int8-llama3", &[]));
    assert!((got - want).abs() < 0.1 && got != plain, "{got}, {want} and {plain}");
}

#[test]
fn bad_rows_are_named_with_their_line() {
    let model = fixture("models/llama3");
    let model = model.to_str().unwrap();
    let good = "{\"prompt_ids\": [5], \"response_ids\": [6]}\n";
    for (row, want) in [
        ("{\"prompt_ids\": [5]", "line 2: not a JSON object"),
        ("[1, 2]", "line 2: not a JSON object"),
        ("{\"prompt_ids\": [5]}", "expected either `prompt` and `response`"),
        ("{\"prompt_ids\": [5], \"reply_ids\": [6]}", "unknown field `reply_ids`"),
        ("{\"prompt_ids\": [], \"response_ids\": [6]}", "has no token"),
        ("{\"prompt_ids\": [5], \"response_ids\": []}", "has no token"),
        ("{\"prompt_ids\": [5], \"response_ids\": [96]}", "outside the vocabulary of 96"),
        ("{\"prompt_ids\": [-1], \"response_ids\": [6]}", "invalid value"),
        ("{\"prompt\": \"a\", \"response\": \"b\"}", "no tokenizer"),
        ("\u{0}\u{1}", "line 2: not a JSON object"),
    ] {
        let input = format!("{good}{row}\n");
        let output = run(&["logprobs", "--model", model, "--input", "-"], &input, &[]);
        let error = refusal(&output, 2);
        assert!(error.contains(want) && error.contains("standard input"), "{row}: {error}");
    }
    let long: Vec<u32> = vec![5; 60];
    let input = format!("{}\n", json!({ "prompt_ids": long, "response_ids": [5, 5, 5, 5, 5] }));
    let output = run(&["logprobs", "--model", model, "--input", "-"], &input, &[]);
    assert!(refusal(&output, 2).contains("65 tokens, but the model's context is 64"));
    let arguments = ["logprobs", "--model", model, "--input", "-"];
    let error = refusal(&run(&arguments, [good.as_bytes(), b"\xef\n"].concat(), &[]), 2);
    assert!(error.contains("standard input, line 2: ") && error.contains("to UTF-8"), "{error}");
    // A byte-order mark is not part of the first row.
    assert_eq!(rows(&run(&arguments, format!("\u{feff}{good}{good}"), &[])).len(), 2);
    // Nothing in, nothing out.
    assert!(rows(&run(&["logprobs", "--model", model, "--input", "-"], "", &[])).is_empty());
}

#[test]
fn bad_arguments_are_named() {
    let model = fixture("models/llama3");
    let model = model.to_str().unwrap();
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for (arguments, want) in [
        (&["logprobs", "--model", model, "--input", "/nowhere.jsonl"][..], "/nowhere.jsonl"),
        (&["logprobs", "--model", model, "--input", "-", "--batch-size", "0"], "--batch-size is 0"),
        (&["logprobs", "--model", model, "--input", "-", "--temperature", "0"], "--temperature"),
        (&["logprobs", "--model", model, "--input", "-", "--device", "tpu"], "tpu"),
        (&["logprobs", "--model", model, "--input", "-", "--dtype", "f8"], "f8"),
        (&["logprobs", "--model", empty, "--input", "-"], "config.json"),
        (
            &["logprobs", "--model", model, "--input", "-", "--temperature", "-1"],
            "--temperature is -1",
        ),
        (&["logprobs", "--model", model, "--input", "-", "--batch-size", "-1"], "'--batch-size"),
        (&["logprobs", "--model", model, "--input", "-", "--threads", "0"], "--threads is 0"),
        (&["logprobs", "--model", model, "--input", empty], "is a folder; name a file of rows"),
        (&["inspect", file], "Cargo.toml is a file; a model is a folder"),
        (&["inspect", "nowhere"], "there is no folder nowhere, so it was taken for a hub id"),
        (&["score", "--model", model, "--input", "-"], "a classifier"),
        (
            &["logprobs", "--model", model, "--input", "-", "--adapter", empty],
            "adapter_config.json",
        ),
    ] {
        let error = refusal(&run(arguments, "", &[("HF_HUB_OFFLINE", "1")]), 2);
        assert!(error.contains(want), "{arguments:?}: {error}");
    }
}

/// The lines that a help text gives as a file, for this model.
fn file_of_help(command: &str, model: &str) -> String {
    let output = run(&[command, "--help"], "", &[]);
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, file) = help.split_once("with what has no default:").expect(command);
    let lines = file.lines().skip(2).map_while(|line| line.strip_prefix("    "));
    lines.map(|line| format!("{}\n", line.replace("MODEL", model))).collect()
}

#[test]
fn the_files_in_help_texts_are_complete() {
    let place = tempfile::tempdir().unwrap();
    let absent = place.path().join("absent");
    let offline = [("HF_HUB_OFFLINE", "1"), ("HF_HOME", place.path().to_str().unwrap())];
    for command in ["sft", "classifier", "reward", "ppo", "reinforce", "dpo", "eval"] {
        let file = place.path().join(format!("{command}.toml"));
        let model = "google/flan-t5-small";
        fs::write(&file, file_of_help(command, model)).unwrap();
        let (file, out) = (file.to_str().unwrap(), absent.to_str().unwrap());
        // Everything is read before the model is missed.
        let output = run(&[command, "--config", file, "--out", out], "", &offline);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(&format!("no file of `{model}`")), "{command}: {error}");
        assert!(!absent.exists(), "{command}");
    }
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let folder = roberta_folder();
    let path = folder.path().join("model");
    let mut vocab: Value =
        serde_json::from_str(&fs::read_to_string(path.join("vocab.json")).unwrap()).unwrap();
    vocab["neverseen"] = json!(vocab.as_object().unwrap().len() + 100);
    fs::write(path.join("vocab.json"), vocab.to_string()).unwrap();
    let input = "{\"text\": \"hello\"}\n";
    let output = run(&["score", "--model", path.to_str().unwrap(), "--input", "-"], input, &[]);
    assert!(refusal(&output, 2).contains("do not belong together"));
}

#[test]
fn text_longer_than_the_model_reads_is_cut_and_ids_are_refused() {
    let folder = roberta_folder();
    let path = folder.path().join("model");
    let path = path.to_str().unwrap();
    let long = "word ".repeat(500);
    let input = format!("{}\n", json!({ "text": long }));
    assert_eq!(rows(&run(&["score", "--model", path, "--input", "-"], &input, &[])).len(), 1);
    let input = format!("{}\n", json!({ "ids": vec![5; 40] }));
    let output = run(&["score", "--model", path, "--input", "-"], &input, &[]);
    assert!(refusal(&output, 2).contains("40 tokens, but the model's context is 32"));
}

/// The hate-speech classifier by its hub id, from a server that speaks the hub's protocol: fetched
/// once, then found without a network; sharded weights; a gated repository explained.
#[test]
fn models_come_from_the_hub() {
    let id = "facebook/roberta-hate-speech-dynabench-r4-target";
    let folder = roberta_folder();
    let server = HubServer::start().unwrap();
    let model = folder.path().join("model");
    server.commit_folder(RepoKind::Model, id, "main", &model).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let home = cache.path().to_str().unwrap();
    let endpoint = server.endpoint();
    let environment = [("HF_ENDPOINT", endpoint.as_str()), ("HF_HOME", home), ("HF_TOKEN", "")];
    let input = format!("{}\n", json!({ "text": TEXTS[1] }));
    let arguments = ["score", "--model", id, "--input", "-"];
    let from_hub = rows(&run(&arguments, &input, &environment));
    let local = ["score", "--model", model.to_str().unwrap(), "--input", "-"];
    assert_eq!(from_hub, rows(&run(&local, &input, &[])));

    drop(server);
    let offline = [environment[0], environment[1], ("HF_HUB_OFFLINE", "1")];
    assert_eq!(rows(&run(&arguments, &input, &offline)), from_hub);

    // Sharded, as Llama 3.1 is.
    let sharded = tempfile::tempdir().unwrap();
    let path = sharded.path().join("sharded");
    let llama = LanguageModel::load(&fixture("models/llama31"), Default::default()).unwrap();
    llama.save(&path, &SaveOptions { shard_bytes: 8 << 10, ..SaveOptions::default() }).unwrap();
    let server = HubServer::start().unwrap();
    let id = "meta-llama/Llama-3.1-8B-Instruct";
    server.commit_folder(RepoKind::Model, id, "main", &path).unwrap();
    let endpoint = server.endpoint();
    let environment = [("HF_ENDPOINT", endpoint.as_str()), ("HF_HOME", home)];
    let output = run(&["inspect", id], "", &environment);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let got: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(got["architecture"], "LlamaForCausalLM");
    assert!(got["files"].as_array().unwrap().len() > 3, "{got}");

    let secret = "hf_a_secret_that_must_not_be_seen";
    server.add_token(secret);
    server.restrict(RepoKind::Model, id, Visibility::Gated(vec!["another".to_owned()]));
    let fresh = tempfile::tempdir().unwrap();
    let environment = [
        ("HF_ENDPOINT", endpoint.as_str()),
        ("HF_HOME", fresh.path().to_str().unwrap()),
        ("HF_TOKEN", secret),
    ];
    let error = refusal(&run(&["inspect", id], "", &environment), 2);
    assert!(error.contains(id) && !error.contains(secret), "{error}");
    let error = refusal(&run(&["inspect", "nobody/nothing"], "", &environment), 2);
    assert!(error.contains("nobody/nothing"), "{error}");
}

#[test]
fn the_forward_benchmark_times_any_model() {
    for (name, response) in [("flan", "4"), ("llama3", "4"), ("roberta", "0")] {
        let model = fixture("models").join(name);
        let arguments = [
            "bench",
            "forward",
            "--model",
            model.to_str().unwrap(),
            "--batch",
            "2",
            "--prompt-len",
            "8",
            "--response-len",
            response,
            "--repeats",
            "2",
            "--dtype",
            "bf16",
            "--json",
        ];
        let got = &rows(&run(&arguments, "", &[]))[0];
        let forward = got["forward_s"].as_f64().unwrap();
        assert!(forward > 0. && got["forward_backward_s"].as_f64().unwrap() > 0., "{got}");
        assert!(got["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    }
}
