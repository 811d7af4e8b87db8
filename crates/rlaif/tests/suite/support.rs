//! Code shared by the tests of several commands.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Output},
    sync::Arc,
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

use rlaif::{
    models::{Classifier, Config, LanguageModel, SaveOptions},
    tch::{Device, Kind},
    text::HfTokenizer,
};
use rlaif_testing::drawn;
use serde_json::{Value, json};

/// A file or folder of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The folder of a tokenizer with a few hundred tokens.
pub(crate) fn tokenizer(name: &str) -> PathBuf {
    repository("crates/rlaif-text/tests/fixtures").join(name)
}

/// Writes a language model with random weights and with a tokenizer, whose size is its
/// `vocab_size`.
pub(crate) fn language_model(folder: &Path, tokenizer: &Path, seed: i64, config: Value) {
    let config = with_vocabulary(config, tokenizer);
    let model = drawn(seed, || LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap());
    model.save(folder, &SaveOptions { source: Some(tokenizer), ..Default::default() }).unwrap();
}

/// The same for a classifier.
pub(crate) fn classifier(folder: &Path, tokenizer: &Path, seed: i64, config: Value) -> Classifier {
    let config = with_vocabulary(config, tokenizer);
    let model = drawn(seed, || Classifier::random(config, Kind::Float, Device::Cpu).unwrap());
    model.save(folder, &SaveOptions { source: Some(tokenizer), ..Default::default() }).unwrap();
    model
}

fn with_vocabulary(mut config: Value, tokenizer: &Path) -> Config {
    let rows = HfTokenizer::from_folder(tokenizer).unwrap().embedding_rows();
    let config = config.as_object_mut().unwrap();
    config.entry("vocab_size").or_insert(rows.into());
    Config::from_value(Value::Object(config.clone()))
}

/// Standard error of a command that succeeded.
#[track_caller]
pub(crate) fn succeeded(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// Standard output as rows; the command must have succeeded.
#[track_caller]
pub(crate) fn rows(output: &Output) -> Vec<Value> {
    succeeded(output);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Standard error of a command that failed with this exit code and wrote no row.
#[track_caller]
pub(crate) fn refusal(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    said
}

/// The rows of a run's metrics.jsonl, without those that are times.
pub(crate) fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let row = |line: &str| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row.as_object_mut().unwrap().retain(|name, _| !name.starts_with("time/"));
        row
    };
    text.lines().map(row).collect()
}

/// The size of a file that may not exist yet, in bytes.
pub(crate) fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Waits until the run has made progress or ended.
pub(crate) fn wait_for_progress(child: &mut Child, metrics: &Path, before: u64) {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        // A resumed run first cuts the file back.
        if length(metrics) > before || start.elapsed() > Duration::from_secs(60) {
            return;
        }
        sleep(Duration::from_millis(1));
    }
}

/// A server of OpenAI's chat completions with the key `sk-secret`: `answer` is called with the body
/// of each request. Returns its base URL.
pub(crate) fn chat_completions(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let answer = answer.clone();
            spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                loop {
                    let (mut line, mut length, mut key) = (String::new(), 0, false);
                    while reader.read_line(&mut line).unwrap() > 0 && line != "\r\n" {
                        let lower = line.to_ascii_lowercase();
                        if let Some(n) = lower.strip_prefix("content-length:") {
                            length = n.trim().parse().unwrap();
                        }
                        key |= lower.trim_end() == "authorization: bearer sk-secret";
                        line.clear();
                    }
                    if length == 0 {
                        return;
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    let (status, body) = if key {
                        let content = answer(&String::from_utf8(body).unwrap());
                        let message = json!({ "role": "assistant", "content": content });
                        let body = json!({
                            "choices": [{ "message": message, "finish_reason": "stop" }],
                            "usage": { "prompt_tokens": 50, "completion_tokens": 2 },
                        });
                        ("200 OK", body)
                    } else {
                        let error = json!({ "message": "no such key", "type": "invalid_request" });
                        ("401 Unauthorized", json!({ "error": error }))
                    };
                    let body = body.to_string();
                    write!(
                        stream,
                        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\
                         content-length: {}\r\n\r\n{body}",
                        body.len()
                    )
                    .unwrap();
                }
            });
        }
    });
    address
}
