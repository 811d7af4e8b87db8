//! `rlaif eval` and `rlaif report`, as programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rlaif::EvalFile;
use rlaif::core::Finding;
use rlaif::ppo::Symptom;
use rlaif::run::WorkRequest;
use serde_json::{Value, json};

use crate::support::{language_model, length, refusal, repository, succeeded, tokenizer};

/// A folder with a tiny T5, and one with the same architecture and other weights.
fn policies(root: &Path) {
    for (name, seed) in [("base", 1), ("tuned", 2)] {
        let config = json!({
            "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 16,
            "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2,
            "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false, "pad_token_id": 0,
            "eos_token_id": 1, "decoder_start_token_id": 0,
        });
        language_model(&root.join(name), &tokenizer("t5"), seed, config);
    }
}

fn config(root: &Path, more: &str) -> PathBuf {
    let path = root.join("eval.toml");
    let text = format!(
        "title = \"A trial\"\nseed = 7\nresponses = 2\nresamples = 200\nheadline = \"toxicity\"\n{more}\n\
         [baseline]\nmodel = \"{root}/base\"\n[tuned]\nmodel = \"{root}/tuned\"\n\
         [data]\ncorpus = \"builtin\"\ntake = 12\nmax_tokens = 200\n\
         [generation]\nmax_new_tokens = 12\nbatch_size = 2\n\
         [[metrics]]\nkind = \"toxicity\"\nclassifier = {{ model = \"{fixtures}/not-hate\" }}\n\
         [[metrics]]\nkind = \"toxicity\"\nname = \"toxicity with prompt\"\nclassifier = {{ model = \"{fixtures}/not-hate\", input = \"prompt-and-response\" }}\n\
         [[metrics]]\nkind = \"rouge\"\n[[metrics]]\nkind = \"length\"\n\
         [[metrics]]\nkind = \"repetition\"\nn = 1\n\
         [[metrics]]\nkind = \"reward\"\nname = \"not-hate\"\nbetter = \"higher\"\n\
         reward = {{ kind = \"classifier\", preset = \"not-hate\", model = \"{fixtures}/not-hate\" }}\n\
         [[judges]]\nkind = \"length\"\nlongest = 3\nper = 1.0\n",
        root = root.display(),
        fixtures = repository("crates/rlaif-rewards/tests/fixtures").display(),
    );
    fs::write(&path, text).unwrap();
    path
}

fn rlaif(arguments: &[&str]) -> Output {
    // Models this small are slower on several threads.
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.args(arguments).env("OMP_NUM_THREADS", "1").output().unwrap()
}

fn eval(config: &Path, out: &Path) -> Output {
    rlaif(&["eval", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()])
}

#[track_caller]
fn good(output: &Output) -> String {
    succeeded(output);
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn refused(output: &Output, says: &str) {
    let said = refusal(output, 2);
    assert!(said.contains(says), "{said}");
}

/// A report without what differs from run to run.
fn report(out: &Path) -> Value {
    let mut report: Value =
        serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    report["timings"] = Value::Null;
    report
}

#[test]
fn two_policies_a_report_and_its_continuation_after_an_interruption() {
    let root = tempfile::tempdir().unwrap();
    policies(root.path());
    let pairs = root.path().join("pairs.jsonl");
    let pair = |chosen: &str, rejected: &str| {
        json!({"prompt": "Why?", "chosen": chosen, "rejected": rejected}).to_string() + "\n"
    };
    // The length's reward is 0 up to two words, and less beyond.
    let rows =
        pair("So it is", "No") + &pair("So", "Because it is so") + &pair("I", "I do not know");
    fs::write(&pairs, rows).unwrap();
    let config = config(root.path(), "");
    let preferences = format!(
        "[[preferences]]\nfile = {pairs:?}\nreward = {{ kind = \"length\", longest = 2, per = 1.0 }}\n"
    );
    let text = fs::read_to_string(&config).unwrap() + &preferences;
    fs::write(&config, text).unwrap();
    let out = root.path().join("out");
    let said = good(&eval(&config, &out));
    assert!(said.contains("A trial") && said.contains("kl_from_reference"), "{said}");
    assert!(said.contains("length agrees with 66.7 % of 3 preferences"), "{said}");

    let first = report(&out);
    assert_eq!((first["metric"].as_str(), first["n"].as_u64()), (Some("toxicity"), Some(12)));
    for side in ["before", "after"] {
        assert!(first[side]["mean"].is_number() && first[side]["std"].is_number());
        assert_eq!(first[side]["ci95"].as_array().map(Vec::len), Some(2));
    }
    assert!(first["delta"]["mean"].is_number());
    assert_eq!(first["samples"].as_array().unwrap().len(), 24);
    assert!(first["provenance"]["steps"].as_array().unwrap().len() > 1);
    assert_eq!(first["win_rates"][0]["judge"], "length");
    let row = |name: &str| {
        let rows = first["rows"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    // The baseline does not differ from itself, the other policy does.
    assert_eq!(row("kl_from_reference")["before"]["max"], 0.);
    assert!(row("kl_from_reference")["after"]["mean"].as_f64().unwrap() > 0.);
    assert_eq!(row("kl_from_reference")["delta"]["improvement_percent"], Value::Null);
    // The prompts are longer than the classifier reads: what it drops is not the response.
    assert_ne!(row("toxicity with prompt")["delta"]["mean"], 0.);
    assert!(row("perplexity_under_reference")["before"]["mean"].as_f64().unwrap() > 1.);

    // Cut off in the middle of a line of responses and of scores: the rest is done again, alike.
    for file in ["responses-after.jsonl", "scores.jsonl"] {
        let text = fs::read(out.join(file)).unwrap();
        fs::write(out.join(file), &text[..text.len() * 2 / 3]).unwrap();
    }
    fs::remove_file(out.join("report.json")).unwrap();
    let before = fs::read(out.join("responses-before.jsonl")).unwrap();
    good(&eval(&config, &out));
    assert_eq!(report(&out), first);
    assert_eq!(fs::read(out.join("responses-before.jsonl")).unwrap(), before);

    // Other settings do not mix with what is there.
    let other = self::config(root.path(), "").with_file_name("other.toml");
    let text = fs::read_to_string(&config).unwrap().replace("seed = 7", "seed = 8");
    fs::write(&other, text).unwrap();
    refused(&eval(&other, &out), "another evaluation (`seed`: 7 -> 8)");
    // How rows go together decides about nothing.
    let batches = fs::read_to_string(&config).unwrap();
    let batches = batches.replace("batch_size = 2", "batch_size = 3");
    fs::write(&other, batches).unwrap();
    good(&eval(&other, &out));
    // Two at once exclude each other.
    let lock = fs::File::open(out.join(".lock")).unwrap();
    lock.lock().unwrap();
    let said = refusal(&eval(&config, &out), 1);
    assert!(said.contains("is in use by another evaluation"), "{said}");
}

#[test]
fn a_report_again_and_the_trade_off_of_several() {
    let root = tempfile::tempdir().unwrap();
    policies(root.path());
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    good(&eval(&config(root.path(), ""), &one));
    // The folder's records of the run's training become part of the report.
    fs::write(one.join("metrics.jsonl"), "{\"step\":1,\"objective/kl\":0.5}\n").unwrap();
    fs::write(one.join("run.toml"), "[ppo]\nkl_coef = 0.25\n").unwrap();
    let finding = Finding {
        step: 3,
        symptom: Symptom::NegativeKl.name().to_owned(),
        seen: "`objective/kl` is -3.00".to_owned(),
        cause: "Responses are sampled otherwise".to_owned(),
        advice: "Leave `generation.min_new_tokens` at 0".to_owned(),
    };
    fs::write(one.join("findings.json"), json!([finding]).to_string()).unwrap();
    let said = good(&rlaif(&["report", one.to_str().unwrap()]));
    assert!(said.contains("A trial") && said.contains("step 3, negative KL"), "{said}");
    assert!(
        said.contains("likely cause: Responses") && said.contains("to change: Leave"),
        "{said}"
    );
    let page = fs::read_to_string(one.join("report.html")).unwrap();
    assert!(page.contains("objective/kl") && page.contains("training.ppo.kl_coef"));
    assert!(fs::read_to_string(one.join("report.md")).unwrap().contains("negative KL"));

    // An evaluation takes the same from the run that it names.
    let three = root.path().join("three");
    good(&eval(&config(root.path(), &format!("run = {one:?}")), &three));
    let report = report(&three);
    assert_eq!(report["findings"][0]["symptom"], "negative_kl");
    assert_eq!(report["configuration"]["training"]["ppo"]["kl_coef"], 0.25);
    assert_eq!(report["training"][0]["name"], "objective/kl");

    fs::create_dir(&two).unwrap();
    fs::copy(one.join("report.json"), two.join("report.json")).unwrap();
    let both = [one.to_str().unwrap(), two.to_str().unwrap()];
    let out = root.path().join("both");
    let out_text = out.to_str().unwrap();
    let said = good(&rlaif(&[
        "report",
        both[0],
        both[1],
        "--metrics",
        "toxicity,not-hate",
        "--out",
        out_text,
    ]));
    assert!(said.contains("not-hate against toxicity"), "{said}");
    for file in ["tradeoff.json", "tradeoff.md", "tradeoff.html", "tradeoff.svg"] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let said = good(&rlaif(&["report", both[0], both[1], "--out", out_text]));
    assert!(said.contains("Over 2 runs toxicity"), "{said}");
    for file in ["runs.json", "runs.md", "runs.html"] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let again = format!("{}/../two", both[1]);
    refused(&rlaif(&["report", both[0], both[1], &again]), "two/../two is given twice");
    refused(&rlaif(&["report", both[0], both[1], "--metrics", "toxicity"]), "two names");
    refused(&rlaif(&["report", both[0], both[1], "--metrics", "toxicity,helpfulness"]), "not-hate");
    refused(&rlaif(&["report", both[0], "--metrics", "toxicity,not-hate"]), "of several runs");
    refused(&rlaif(&["report", root.path().to_str().unwrap()]), "holds no report");
    // One report again, into another folder.
    let elsewhere = root.path().join("elsewhere");
    good(&rlaif(&["report", both[0], "--out", elsewhere.to_str().unwrap()]));
    assert!(elsewhere.join("report.html").is_file());
}

#[test]
fn what_is_wrong_with_a_configuration_is_said_before_anything_is_generated() {
    let root = tempfile::tempdir().unwrap();
    policies(root.path());
    let out = root.path().join("out");
    let with = |from: &str, to: &str| {
        let path = config(root.path(), "");
        let text = fs::read_to_string(&path).unwrap().replacen(from, to, 1);
        fs::write(&path, text).unwrap();
        eval(&path, &out)
    };
    refused(&with("resamples", "resample"), "did you mean `resamples`?");
    refused(&with("corpus = \"builtin\"", "corpus = \"prompts\""), "`data.file`");
    refused(&with("n = 1", "n = 0"), "`n`");
    refused(&with("not-hate\" }", "nothing\" }"), "nothing");
    refused(&with("max_new_tokens = 12", "max_new_tokens = 0"), "max_new_tokens");
    refused(&with("headline = \"toxicity\"", "headline = \"kindness\""), "kindness");
    refused(&with("seed = 7", "seed = 7\nprompt_toxicity = \"toxic\""), "there are: topic");
    refused(&with("take = 12", "take = 1"), "prompts to compare on: 1 given");
    refused(&with("kind = \"length\"", "kind = \"rouge\""), "two metrics are called `rougeL`");
    refused(&with("seed = 7", "seed = 7\nrun = \"nowhere\""), "nowhere/metrics.jsonl");
    refused(&with("responses = 2", "responses = 0"), "found integer `0`");
    assert!(!out.exists(), "something was generated");
}

#[test]
fn prompts_of_a_file_are_sliced_by_its_columns() {
    let root = tempfile::tempdir().unwrap();
    policies(root.path());
    let rows: String = (0..6)
        .map(|n| {
            format!("{{\"prompt\":\"Say {n}.\",\"source\":\"book {}\",\"toxic\":0.{n}}}\n", n % 2)
        })
        .collect();
    let file = root.path().join("prompts.jsonl");
    fs::write(&file, rows).unwrap();
    let path = config(
        root.path(),
        "prompt_toxicity = \"toxic\"\n\
         slices = [{ metadata = { key = \"source\" } }, { number = { key = \"toxic\", edges = [0.3] } }]",
    );
    let text = fs::read_to_string(&path).unwrap();
    let data = format!("corpus = \"prompts\"\nfile = {file:?}\nmetadata = [\"source\", \"toxic\"]");
    let text = text.replace("corpus = \"builtin\"", &data);
    fs::write(&path, &text).unwrap();
    let out = root.path().join("out");
    // ROUGE compares with references, which these prompts lack: said before any model is loaded.
    let (base, away) = (root.path().join("base"), root.path().join("away"));
    fs::rename(&base, &away).unwrap();
    refused(&eval(&path, &out), "metric `rougeL` compares with a reference response, and 6 of 6");
    fs::rename(&away, &base).unwrap();
    fs::write(&path, text.replace("[[metrics]]\nkind = \"rouge\"\n", "")).unwrap();
    good(&eval(&path, &out));
    let slices = report(&out)["slices"].to_string();
    for expected in ["book 0", "book 1", "< 0.3", "≥ 0.3"] {
        assert!(slices.contains(expected), "{expected} in {slices}");
    }
}

#[test]
fn the_configurations_of_the_documentation_are_some() {
    let text = fs::read_to_string(repository("docs/evaluation.md")).unwrap();
    let blocks: Vec<&str> =
        text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [whole, more] = blocks.as_slice() else { panic!("{} blocks", blocks.len()) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eval.toml");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        let out = Some("out".into());
        let request = WorkRequest { config: path.clone(), out, ..WorkRequest::default() };
        request.open::<EvalFile>().unwrap().config
    };
    let config = read(whole);
    assert_eq!((config.metrics.len(), config.judges.len(), config.preferences.len()), (5, 1, 1));
    assert_eq!(read(&format!("{more}\n{whole}")).slices.len(), 2);
}

#[cfg(unix)]
#[test]
fn an_evaluation_hears_ctrl_c_and_keeps_what_has_come() {
    let root = tempfile::tempdir().unwrap();
    policies(root.path());
    let config = config(root.path(), "");
    let out = root.path().join("out");
    let run = |set: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
        command.args(["eval", "--config"]).arg(&config).arg("--out").arg(&out);
        command.args(set).env("OMP_NUM_THREADS", "1");
        command
    };
    let long = ["--set", "responses=200", "--set", "generation.max_new_tokens=100"];
    let mut child = run(&long).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let kept = out.join("responses-before.jsonl");
    while child.try_wait().unwrap().is_none() && length(&kept) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("run the same command again to continue"), "{said}");
    // Another setting is refused, and without a folder there is no evaluation.
    refused(&run(&["--set", "responses=1"]).output().unwrap(), "`responses`: 200 -> 1");
    let nowhere = rlaif(&["eval", "--config", config.to_str().unwrap()]);
    refused(&nowhere, "`--out` is missing; expected the folder of the report");
}
