//! `rlaif ui --model`: OpenAI's interface, with its own Python client and with a judge as clients.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::support::{refusal, repository, rows, succeeded};

/// A server of the built-in Llama.
struct Serving {
    child: Child,
    api: String,
    key: String,
}

impl Serving {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rlaif"))
            .args(["ui", "--port", "0"])
            .args(arguments)
            .current_dir(repository("."))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.take(2).find(|line| line.starts_with("api ")).unwrap();
        let (api, key) = line[4..].split_once(' ').unwrap();
        Self { child, api: api.to_owned(), key: key.to_owned() }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Rows of `rlaif generate`.
fn generated(folder: &Path, input: &[Value], options: &str) -> Vec<Value> {
    let file = folder.join("prompts.jsonl");
    fs::write(&file, input.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rlaif"))
        .args(["generate", "--model", "models/summary-llama", "--input"])
        .arg(&file)
        .args(options.split(' '))
        .current_dir(repository("."))
        .output()
        .unwrap();
    rows(&output)
}

/// The plan of the Python client: requests, and the rows of `rlaif generate` that they should equal.
fn plan(folder: &Path) -> Value {
    let text =
        json!({"prompt": "SUBREDDIT: r/AskReddit\nTITLE: A walk\nPOST: We went out.\nTL;DR:"});
    let chat =
        json!({"messages": [{"role": "user", "content": "Sum up: we went out, and it rained."}]});
    let ids = json!({"prompt_ids": [37, 4000, 81, 12]});
    let case = |kind: &str, row: &Value, n: usize, asked: Value, options: &str| {
        let rows = vec![row.clone(); n];
        json!({"kind": kind, "row": row, "n": n, "asked": asked, "rows": generated(folder, &rows, options)})
    };
    json!([
        case(
            "completion",
            &text,
            3,
            json!({"seed": 5, "max_tokens": 24}),
            "--seed 5 --max-new-tokens 24"
        ),
        case(
            "completion",
            &ids,
            2,
            json!({"seed": 1, "temperature": 0.7, "top_p": 0.9, "max_tokens": 12}),
            "--seed 1 --temperature 0.7 --top-p 0.9 --max-new-tokens 12"
        ),
        case(
            "completion",
            &text,
            1,
            json!({"temperature": 0, "max_tokens": 30, "stop": ["e"]}),
            "--greedy --max-new-tokens 30 --stop e"
        ),
        case(
            "chat",
            &chat,
            2,
            json!({"seed": 9, "max_tokens": 20}),
            "--seed 9 --max-new-tokens 20"
        ),
    ])
}

#[test]
fn openais_python_client_gets_the_responses_of_generate() {
    let folder = tempfile::tempdir().unwrap();
    let Some(python) = std::env::var_os("RLAIF_PYTHON") else {
        eprintln!("SKIPPED: RLAIF_PYTHON names no Python with the package openai");
        return;
    };
    let has = Command::new(&python).args(["-c", "import openai"]).output().unwrap();
    if !has.status.success() {
        eprintln!("SKIPPED: the Python of RLAIF_PYTHON has no package openai");
        return;
    }
    let plan_file = folder.path().join("plan.json");
    fs::write(&plan_file, plan(folder.path()).to_string()).unwrap();
    let serving = Serving::start(&["--model", "llama=models/summary-llama", "--batch-size", "3"]);
    let output = Command::new(python)
        .arg(repository("crates/rlaif/tests/suite/openai_client.py"))
        .arg(&plan_file)
        .args([&serving.api, &serving.key])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.ends_with("all well\n"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// A judge of pairs reads the probabilities of its two labels in the server's `top_logprobs`.
#[test]
fn a_judge_of_pairs_asks_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Serving::start(&["--model", "llama=models/summary-llama"]);
    let candidates = json!({"prompt": "Why?", "responses": ["Because.", "No."]});
    fs::write(folder.path().join("candidates.jsonl"), format!("{candidates}\n")).unwrap();
    // The built-in model is not a judge: hardly any probability is on the labels.
    let file = format!(
        "[data]\nfile = 'candidates.jsonl'\n[judge]\nmin_coverage = 1e-30\nsampling = {{ temperature = 0.0 }}\n\
         api = {{ kind = 'openai', model = 'llama', base_url = '{}', api_key_env = 'TEST_KEY' }}\n\
         [[facets]]\nfacet = 'helpful'\n",
        serving.api
    );
    fs::write(folder.path().join("label.toml"), file).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rlaif"))
        .args(["label", "--config", "label.toml", "--out", "labels.jsonl"])
        .env("TEST_KEY", &serving.key)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = succeeded(&output);
    assert!(said.contains("llama/output_tokens"), "{said}");
    let labels = fs::read_to_string(folder.path().join("labels.jsonl")).unwrap();
    let label: Value = serde_json::from_str(labels.trim()).unwrap();
    assert_eq!((&label["labeller"], &label["estimate"]), (&json!("llama"), &json!(false)));
    let p = label["probability"].as_f64().unwrap();
    assert!((0.5..1.).contains(&p), "{label}");
}

/// `benches/serve.mjs` with two short streams. It fails if a stream lacks tokens; speed is not compared.
#[test]
fn the_benchmark_of_streams_compares_them_with_batched_generation() {
    let mut bench = Command::new("node");
    bench.current_dir(repository(".")).arg("benches/serve.mjs").arg(env!("CARGO_BIN_EXE_rlaif"));
    let Ok(output) = bench.args(["models/summary-llama", "2", "4", "1"]).output() else {
        eprintln!("SKIPPED: there is no Node");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    succeeded(&output);
    assert!(said.starts_with("2 streams: ") && said.contains("ratio "), "{said}");
    assert!(said.ends_with(" in 1 rounds)\n"), "{said}");
}

#[test]
fn models_that_cannot_be_served_are_refused_by_name() {
    let ui = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
        command.args(["ui", "--port", "0"]).args(arguments).current_dir(repository("."));
        refusal(&command.output().unwrap(), 2)
    };
    let said = ui(&["--model", "models/summary-llama", "--context", "2000"]);
    assert!(said.contains("context") && said.contains("1024"), "{said}");
    let said = ui(&["--model", "a=models/summary-llama", "--model", "a=models/summary-t5"]);
    assert!(said.contains("NAME=MODEL"), "{said}");
    let said = ui(&["--model", "models/toxicity-bert"]);
    assert!(said.contains("toxicity-bert"), "{said}");
    let said = ui(&["--batch-size", "0", "--model", "models/summary-llama"]);
    assert!(said.contains("batch"), "{said}");
}
