//! Commands against a real vLLM, if RLAIF_VLLM names the folder of an environment that has it.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Output},
    thread::sleep,
    time::Duration,
};

use rlaif::{
    lm::Policy as _,
    models::{LanguageModel, LoadOptions, WeightsWriter},
    tch::{Device, Kind},
};
use rlaif_testing::RealVllm;
use serde_json::{Value, json};

use crate::support::{chat_completions, repository, succeeded};

/// Writes the folder of a model without tied matrices: vLLM on a CPU renews all of those.
fn untie(model: &Path, folder: &Path) {
    let mut policy =
        LanguageModel::load(model, LoadOptions::new(Device::Cpu, Kind::Float)).unwrap();
    let writer = WeightsWriter::new(&mut policy, Some(model)).unwrap();
    writer.write(policy.parameters(), folder).unwrap();
}

fn command(name: &str, folder: &Path, out: &str, config: &str) -> Command {
    let file = folder.join(format!("{out}.toml"));
    fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.args([name, "--config"]).arg(file).arg("--out").arg(folder.join(out));
    command.env("TEST_KEY", "sk-secret");
    command
}

fn run(name: &str, folder: &Path, out: &str, config: &str) -> Output {
    command(name, folder, out, config).output().unwrap()
}

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The answer to a POST.
fn post(server: &RealVllm, path: &str, body: &Value) -> Value {
    let address = server.url();
    let host = address.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let body = body.to_string();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    serde_json::from_str(body).unwrap()
}

/// The mean scores of a run's first and last four steps.
fn ends(run: &Path, steps: usize) -> (f64, f64) {
    let rows = rows(&run.join("metrics.jsonl"));
    assert_eq!(rows.len(), steps);
    let scores: Vec<f64> =
        rows.iter().map(|row| row["env/reward_mean"].as_f64().unwrap()).collect();
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
    (mean(&scores[..4]), mean(&scores[steps - 4..]))
}

/// The reward is for short responses. The server dies in the middle of one run, and is started again.
#[test]
fn ppo_and_grpo_learn_from_rollouts_on_a_real_vllm_as_they_do_locally() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let untied = folder.join("untied");
    let model = repository("models/summary-llama").canonicalize().unwrap();
    untie(&model, &untied);
    let options = ["--max-model-len", "256", "--enable-lora", "--max-loras", "2"];
    let Some(mut server) = RealVllm::start(&untied, folder, &options) else { return };

    let prompts: String =
        (0..48).map(|i| format!("{{\"prompt\": \"The number {i} says\"}}\n")).collect();
    fs::write(folder.join("prompts.jsonl"), prompts).unwrap();
    let config = |algorithm: &str, keys: &str| {
        format!(
            "[model]\npath = '{}'\n[placement]\ndevice = 'cpu'\nthreads = 2\n[data]\nprompts = '{}'\n\
             [reward]\nkind = 'length'\nshortest = 1\nlongest = 4\nper = 4.0\n\
             [{algorithm}]\n{keys}\n[{algorithm}.generation]\nmax_new_tokens = 16\n\
             [{algorithm}.optimizer]\nlr = 5e-5\n",
            model.display(),
            folder.join("prompts.jsonl").display()
        )
    };
    let vllm =
        format!("[vllm]\nurls = ['{}']\nretries = 100\nlongest_wait_s = 1.0\n", server.url());
    let grpo = config(
        "reinforce",
        "algorithm = 'grpo'\nbatch_size = 32\ngroup_size = 8\nkl = 'none'\nsteps = 24",
    );
    let ppo = config("ppo", "batch_size = 32\nminibatch_size = 16\nsteps = 24");
    let lora = |config: &str| {
        let faster = config.replace("lr = 5e-5", "lr = 1e-3");
        faster.replace("[placement]", "[model.lora]\nrank = 8\n[placement]")
    };
    // The adapter belongs to the base that the server began with, so its run is the first.
    for (name, command, config) in [
        ("adapter", "reinforce", lora(&grpo)),
        ("grpo", "reinforce", grpo.clone()),
        ("ppo", "ppo", ppo),
    ] {
        let (here, there) = (format!("{name}-here"), format!("{name}-there"));
        succeeded(&run(command, folder, &here, &config));
        succeeded(&run(command, folder, &there, &format!("{config}{vllm}")));
        let (here, out) = (ends(&folder.join(here), 24), folder.join(there));
        let there = ends(&out, 24);
        for (before, after) in [here, there] {
            assert!(after > before + 0.4, "{name}: {here:?} {there:?}");
        }
        assert!((here.1 - there.1).abs() < 0.3, "{name}: {here:?} {there:?}");
        let log = fs::read_to_string(out.join("log.txt")).unwrap();
        assert!(log.contains("sampled by vLLM at"), "{log}");
        assert!(!log.contains("no /weight_checker"), "{log}");
        eprintln!("{name}: {here:?} here, {there:?} on vLLM");
        for row in rows(&out.join("metrics.jsonl")) {
            if let Some(kl) = row["objective/mismatch_kl"].as_f64() {
                assert!(kl < 1e-4, "{name}: {row}");
            }
        }
    }

    let long = format!("{}{vllm}", grpo.replace("steps = 24", "steps = 40"));
    let mut child = command("reinforce", folder, "killed", &long).spawn().unwrap();
    while rows(&folder.join("killed/metrics.jsonl")).len() < 5 {
        assert!(child.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(20));
    }
    server.kill();
    let reached = rows(&folder.join("killed/metrics.jsonl")).len();
    assert!(reached < 30, "{reached}");
    server.restart();
    assert!(child.wait().unwrap().success());
    let (before, after) = ends(&folder.join("killed"), 40);
    assert!(after > before + 0.4, "{before} {after}");
}

/// A judge that has learned to answer with a label is asked the same questions here and on a server, in three forms.
#[test]
fn a_judge_gives_the_same_labels_here_and_on_a_real_vllm() {
    if std::env::var_os("RLAIF_VLLM").is_none() {
        eprintln!("SKIPPED: RLAIF_VLLM names no environment with vLLM");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    // The right answers of a judge that prefers the shorter response are the lessons of the built-in Llama.
    let teacher = chat_completions(|body| {
        let body: Value = serde_json::from_str(body).unwrap();
        let text = body["messages"][1]["content"].as_str().unwrap();
        let length = |label: &str| {
            let from = text.rsplit(&format!("Response {label}:\n")).next().unwrap();
            from.split_once("]]\n").unwrap().1.split("\n[[end").next().unwrap().len()
        };
        if length("1") <= length("2") { "1" } else { "2" }.to_owned()
    });
    let pairs: String = (0..24)
        .map(|i| {
            let (short, long) = (format!("It is {i}."), format!("It may be {i}, or it may not."));
            format!("{}\n", json!({"prompt": format!("Which number is {i}?"), "chosen": short, "rejected": long}))
        })
        .collect();
    fs::write(folder.join("pairs.jsonl"), pairs).unwrap();
    let label = |judge: &str, keys: &str| {
        format!(
            "{keys}[judge]\n{judge}\n[data]\nfile = '{}'\n[[facets]]\nfacet = 'helpful'\n",
            folder.join("pairs.jsonl").display()
        )
    };
    let api = |kind: &str, url: &str, more: &str| {
        format!(
            "[judge.api]\nkind = '{kind}'\nmodel = 'base'\nbase_url = '{url}'\napi_key_env = 'TEST_KEY'\n{more}"
        )
    };
    let lessons = label(&api("openai", &teacher, ""), "lessons = 'messages'\n");
    succeeded(&run("label", folder, "taught.jsonl", &lessons));
    let sft = format!(
        "[model]\npath = '{}'\n[placement]\ndevice = 'cpu'\n[data]\ntrain = '{}'\nmax_tokens = 1024\n\
         [train]\nsteps = 12\nbatch_size = 8\n[learn.optimizer]\nlr = 5e-4\n",
        repository("models/summary-llama").canonicalize().unwrap().display(),
        folder.join("taught.lessons.jsonl").display()
    );
    succeeded(&run("sft", folder, "sft", &sft));
    let judge = folder.join("sft/model");

    let options = ["--max-model-len", "1024"];
    let Some(server) = RealVllm::start(&judge, folder, &options) else { return };
    let policy = format!("[judge.api]\nkind = 'policy'\nmodel = '{}'\n", judge.display());
    succeeded(&run("label", folder, "policy.jsonl", &label(&policy, "ties = 'keep'\n")));
    let openai = api("openai", &format!("{}/v1", server.url()), "");
    succeeded(&run("label", folder, "openai.jsonl", &label(&openai, "ties = 'keep'\n")));
    let anthropic = api("anthropic", &server.url(), "");
    let greedy = format!("{anthropic}[judge.sampling]\ntemperature = 0.0\n");
    succeeded(&run("label", folder, "anthropic.jsonl", &label(&greedy, "ties = 'keep'\n")));

    let all = |name: &str| {
        let mut rows = rows(&folder.join(name));
        rows.sort_by_key(|row| row["prompt"].to_string());
        assert_eq!(rows.len(), 24, "{name}");
        rows
    };
    let (here, there, sampled) = (all("policy.jsonl"), all("openai.jsonl"), all("anthropic.jsonl"));
    let mut all_here = Vec::new();
    for ((here, there), sampled) in here.iter().zip(&there).zip(&sampled) {
        assert_eq!((&here["estimate"], &there["estimate"]), (&json!(false), &json!(false)));
        assert_eq!(sampled["estimate"], true, "{sampled}");
        let (prompt, here) = (here["prompt"].to_string(), of_the_shorter(here));
        for ((here, there), sampled) in
            here.iter().zip(of_the_shorter(there)).zip(of_the_shorter(sampled))
        {
            assert!((here - there).abs() < 1e-2, "{prompt}: {here} here, {there} on vLLM");
            let clear = (here - 0.5).abs() > 1e-2;
            assert!(!clear || sampled == here.round(), "{prompt}: {here} here, {sampled} on vLLM");
        }
        all_here.extend(here);
    }

    // Labels that are all 0 or 1 would be equal too easily.
    let unsure = all_here.iter().filter(|&&p| 0.05 < p && p < 0.95).count();
    assert!(unsure >= 12, "{all_here:?}");

    let tokens = |body: &Value| post(&server, "/tokenize", body)["tokens"].clone();
    let label = |label: &str| {
        let ids = tokens(&json!({"model": "base", "prompt": label, "add_special_tokens": false}));
        assert_eq!(ids.as_array().unwrap().len(), 1);
        ids[0].clone()
    };
    let labels = json!([label("1"), label("2")]);
    let lessons = rows(&folder.join("taught.lessons.jsonl"));
    assert_eq!(lessons.len(), 48);
    for lesson in lessons {
        let ids = tokens(
            &json!({"model": "base", "messages": lesson["prompt"], "add_generation_prompt": true}),
        );
        let (last, ids) = ids.as_array().unwrap().split_last().unwrap();
        let question = json!({"model": "base", "query": ids, "items": [[last]], "label_token_ids": labels,
            "apply_softmax": true, "add_special_tokens": false});
        let first = post(&server, "/generative_scoring", &question);
        let first = first["data"][0]["score"].as_f64().unwrap_or_else(|| panic!("{first}"));
        let text = lesson["prompt"].to_string();
        let of_pair = |row: &&Value| text.contains(row["prompt"].as_str().unwrap());
        let row = here.iter().find(of_pair).unwrap();
        let [shown_first, shown_second] = of_the_shorter(row);
        let want = if lesson["response"] == "1" { shown_first } else { 1. - shown_second };
        assert!((first - want).abs() < 1e-2, "{lesson}: {first} by scoring, {want} here");
    }
}

/// The probabilities of the pair's shorter response where it is shown first, and where it is shown second.
fn of_the_shorter(row: &Value) -> [f64; 2] {
    let verdicts = &row["verdicts"]["helpful"];
    let of = |order: &str| verdicts[order].as_f64().unwrap_or_else(|| panic!("{row}"));
    let (first, second) = (of("chosen_first"), of("chosen_second"));
    if row["rejected"].as_str().unwrap().contains("may") {
        [first, second]
    } else {
        [1. - second, 1. - first]
    }
}
