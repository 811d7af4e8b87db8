//! The main example as a user runs it: on the built-in models, stopped and resumed, on models of
//! the hub, and with judges behind APIs. Steps and prompts are few, so that each test takes
//! seconds.

mod judge_server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The example's binary, which cargo builds before it runs these tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let profile = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    profile.join("examples").join("hh_toxicity")
}

fn command(out: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(example());
    command.args(["--device", "cpu", "--out"]).arg(out).args(arguments);
    // Tests run in parallel; idle threads of one would slow down the others.
    command.env("OMP_NUM_THREADS", "1");
    command
}

fn succeeds(mut command: Command) -> Output {
    let output = command.output().expect("the example is built");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

const SMALL: [&str; 8] =
    ["--batch-size", "4", "--eval-prompts", "8", "--max-new-tokens", "12", "--steps", "2"];

fn report(out: &Path) -> Value {
    let file = fs::read(out.join("report.json")).expect("there is a report");
    serde_json::from_slice(&file).expect("it is JSON")
}

#[test]
fn a_run_writes_its_folder() {
    let place = tempfile::tempdir().unwrap();
    let whole = place.path().join("whole");
    let output = succeeds(command(&whole, &SMALL));
    let said = String::from_utf8_lossy(&output.stdout);
    for expected in ["toxicity", "toxicity_judge", "rougeL", "before (", "report:", "model:"] {
        assert!(said.contains(expected), "no `{expected}` in {said}");
    }
    for file in ["run.toml", "metrics.jsonl", "samples.jsonl", "report.md", "report.html"] {
        assert!(whole.join(file).is_file(), "{file}");
    }
    assert!(whole.join("model/model.safetensors").is_file());
    assert!(whole.join("model/tokenizer.json").is_file());
    let told: Value =
        serde_json::from_slice(&fs::read(whole.join("findings.json")).unwrap()).unwrap();
    assert_eq!(report(&whole)["findings"], told);
    assert_eq!(least_length(&whole), (0, None));
}

/// `min_new_tokens` of a run, and the warning about it in the log.
fn least_length(out: &Path) -> (u64, Option<String>) {
    let set = &report(out)["configuration"]["ppo"]["generation"]["min_new_tokens"];
    let log = fs::read_to_string(out.join("log.txt")).unwrap();
    let warning = log.lines().find(|line| line.contains("`min_new_tokens`"));
    (set.as_u64().unwrap(), warning.map(str::to_owned))
}

/// The page of symptoms advises against the setting, for the reason that the library's warning gives.
fn advice_agrees_with(warning: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/troubleshooting.md");
    let page = fs::read_to_string(page).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.contains("min_new_tokens")).collect();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!(rows[0].contains("Not `min_new_tokens`"), "{}", rows[0]);
    for reason in ["the KL negative", "rewards the policy"] {
        assert!(rows[0].contains(reason) && warning.contains(reason), "{}\n{warning}", rows[0]);
    }
}

/// Starts a run, kills it three times (before its first checkpoint, `start` after a restart, and
/// after a checkpoint), and stops it by Ctrl-C. Returns `true` if Ctrl-C came before the end.
fn stopped_on_its_way(cut: &Path, arguments: &[&str], start: Duration) -> bool {
    let begin = |arguments: &[&str]| {
        let mut command = command(cut, arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let rows = || fs::read_to_string(cut.join("metrics.jsonl")).unwrap_or_default().lines().count();
    let wait_for = |child: &mut Child, count: usize| {
        while rows() < count && child.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_millis(5));
        }
    };
    // Before the first checkpoint, which is that of step 10.
    let mut child = begin(arguments);
    wait_for(&mut child, 4);
    child.kill().unwrap();
    child.wait().unwrap();
    // At some time during start-up.
    let mut child = begin(&["--resume"]);
    thread::sleep(start);
    child.kill().unwrap();
    child.wait().unwrap();
    // After a checkpoint.
    let mut child = begin(&["--resume"]);
    wait_for(&mut child, 14);
    child.kill().unwrap();
    child.wait().unwrap();

    let done = rows().max(16);
    let mut child = begin(&["--resume"]);
    // After one step: a process that is starting does not handle Ctrl-C yet.
    wait_for(&mut child, done + 1);
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    if cut.join("report.json").exists() {
        return false;
    }
    let log = fs::read_to_string(cut.join("log.txt")).unwrap();
    assert!(log.contains("stopped; continue with --out"), "{log}");
    true
}

/// SIGKILL at arbitrary points, Ctrl-C during training, and --resume each time: the numbers are
/// those of an uninterrupted run.
#[test]
fn killed_stopped_and_resumed_it_gives_the_same_numbers() {
    let place = tempfile::tempdir().unwrap();
    let (whole, cut) = (place.path().join("whole"), place.path().join("cut"));
    let long =
        ["--batch-size", "4", "--eval-prompts", "8", "--max-new-tokens", "12", "--steps", "24"];
    let start = Instant::now();
    succeeds(command(&whole, &long));
    let lasted = start.elapsed();

    // On a busy machine the run may end before it is stopped: then repeat.
    while !stopped_on_its_way(&cut, &long, lasted / 9) {
        fs::remove_dir_all(&cut).unwrap();
    }
    succeeds(command(&cut, &["--resume"]));
    let [first, second] = [&whole, &cut].map(|out| report(out));
    assert_eq!(first["after"], second["after"]);
    assert_eq!(first["samples"], second["samples"]);
    for file in ["samples.jsonl", "model/model.safetensors", "findings.json"] {
        let [one, two] = [&whole, &cut].map(|out| fs::read(out.join(file)).unwrap());
        assert!(one == two, "{file} differs");
    }
    let numbers = |out: &Path| -> Vec<Value> {
        let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let row = |line: &str| {
            let mut row: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
            row.retain(|name, _| !name.starts_with("time/"));
            Value::Object(row)
        };
        text.lines().map(row).collect()
    };
    assert_eq!(numbers(&whole), numbers(&cut));
}

/// The rule of the published pipeline: the run stops once toxicity is low enough, and makes no
/// further step when resumed.
#[test]
fn it_ends_once_toxicity_is_low_enough() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("run");
    let rule = ["--steps", "9", "--until-toxicity", "0.99"];
    succeeds(command(&out, &[&SMALL[..6], &rule].concat()));
    let steps = || fs::read_to_string(out.join("metrics.jsonl")).unwrap().lines().count();
    assert_eq!(steps(), 5);
    let before = report(&out)["after"].clone();
    succeeds(command(&out, &["--resume"]));
    assert_eq!((steps(), &report(&out)["after"]), (5, &before));
}

#[test]
fn an_adapter_is_trained_instead_of_all_weights() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("run");
    succeeds(command(&out, &[&SMALL[..], &["--policy", "llama", "--lora", "4"]].concat()));
    assert!(out.join("model/adapter_model.safetensors").is_file());
}

#[test]
fn what_cannot_be_is_said_before_work_starts() {
    let place = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        (&["--policy", "no/such", "--steps", "1"][..], "no/such"),
        (&["--dtype", "f64"], "expected f32 or bf16"),
        (&["--max-new-tokens", "20000000", "--steps", "1"], "GiB free"),
        (&["--batch-size", "4000000", "--steps", "1"], "has only"),
        // The name of earlier versions.
        (&["--batch", "4"], "a similar argument exists: '--batch-size'"),
        (&["--eval-prompts", "1"], "at least 2"),
        (&["--until-toxicity=-1"], "it is a probability"),
        (&["--reward", "judge"], "the independent classifier"),
        (&["--judge", "x.toml", "--until-toxicity", "0.1"], "a judge alone tells no toxicity"),
        (&["--reward", "t5"], "is not a classifier"),
        (&["--judge", "nowhere.toml"], "nowhere.toml"),
        (&["--dataset", "./nowhere.jsonl"], "./nowhere.jsonl"),
        (&["--steps", "0"], "`steps` is 0"),
        (&["--lr", "nan"], "`optimizer.lr` is NaN"),
    ] {
        let out = place.path().join(expected.replace('/', "-"));
        let mut command = command(&out, arguments);
        let output = command.env("HF_HUB_OFFLINE", "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{said}");
        assert!(!out.exists(), "a folder that the next try would take for a run");
    }
}

/// Explicit options override the settings of the published pipeline.
#[test]
fn settings_of_the_pipeline_give_way_to_options() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("run");
    let own = ["--policy", "t5", "--dataset", "builtin", "--reward", "roberta", "--blog"];
    let small =
        ["--batch-size", "4", "--eval-prompts", "4", "--max-new-tokens", "6", "--steps", "1"];
    succeeds(command(&out, &[&own[..], &small].concat()));
    let settings = &report(&out)["configuration"];
    let options = &settings["options"];
    assert_eq!(options["policy"], "t5");
    assert_eq!(options["steps"], 1);
    assert_eq!(options["lr"], 1.41e-5);
    assert_eq!(settings["ppo"]["epochs"], 1);
    let (least, warning) = least_length(&out);
    assert_eq!(least, 5);
    let concern = rlaif::lm::generate::RolloutConcern::LeastLength { min: 5 }.to_string();
    let warning = warning.expect("a warning");
    assert!(warning.contains(&concern), "{warning}");
    advice_agrees_with(&warning);
}

/// The command of README, complete: the purpose of the project.
#[test]
fn responses_become_less_toxic_and_stay_summaries() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("run");
    succeeds(command(&out, &[]));
    let report = report(&out);
    let rows = report["rows"].as_array().unwrap();
    let of = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    let means =
        |name: &str| ["before", "after"].map(|when| of(name)[when]["mean"].as_f64().unwrap());
    for name in ["toxicity", "toxicity_judge"] {
        let [before, after] = means(name);
        assert!(after < 0.6 * before, "{name}: {before} to {after}");
        let interval = &of(name)["delta"]["ci95"];
        assert!(interval[1].as_f64().unwrap() < 0., "{name}: {interval}");
    }
    // Against human-written references.
    let [before, after] = means("rougeL");
    assert!(after > 0.9 * before, "rougeL: {before} to {after}");
    let [before, after] = means("length_words");
    assert!((0.6 * before..1.4 * before).contains(&after), "words: {before} to {after}");
    let [_, kl] = means("kl");
    assert!(kl < 10., "{kl} nats");
}

/// The file of a judge: the rubric of toxicity, requested at `url`.
fn judge(kind: &str, url: &str) -> String {
    let place = match kind {
        "anthropic" => format!("kind = 'anthropic'\nbase_url = '{url}'"),
        "openai" => format!("kind = 'openai'\nbase_url = '{url}/v1'"),
        _ => format!("kind = '{kind}'\nregion = 'us-east-1'\nbase_url = '{url}'"),
    };
    format!("rubric = 'toxicity'\n[api]\n{place}\nmodel = 'x'\n")
}

#[test]
fn judges_behind_apis_reward_as_well() {
    for (name, format) in [
        ("anthropic", judge_server::ANTHROPIC),
        ("bedrock-invoke", judge_server::INVOKE),
        ("bedrock-converse", judge_server::CONVERSE),
        ("openai", judge_server::OPENAI),
    ] {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("judge.toml");
        fs::write(&file, judge(name, &judge_server::start(format))).unwrap();
        let out = place.path().join("run");
        let file = file.to_string_lossy().into_owned();
        let mut command = command(&out, &[&SMALL[..], &["--judge", &file]].concat());
        command.env("ANTHROPIC_API_KEY", "k").env("OPENAI_API_KEY", "k");
        command.env("AWS_BEARER_TOKEN_BEDROCK", "k");
        succeeds(command);
        let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let first: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
        assert!(
            first["ppo/mean_scores"].as_f64().is_some_and(|score| score > 0.),
            "{name}: {first}"
        );
        assert_eq!(first["ppo/std_scores"], 0., "{name}: {first}");
        // Only what rewards scores the responses of a step.
        assert!(first.get("env/reward/classifier/toxicity").is_none(), "{first}");
    }

    // Together with a classifier: the score is the mean of the two.
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("judge.toml");
    fs::write(&file, judge("anthropic", &judge_server::start(judge_server::ANTHROPIC))).unwrap();
    let file = file.to_string_lossy().into_owned();
    let out = place.path().join("run");
    let both = ["--reward", "roberta", "--judge", &file];
    let mut command = command(&out, &[&SMALL[..], &both].concat());
    command.env("ANTHROPIC_API_KEY", "k");
    succeeds(command);
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let first: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    assert!(first["ppo/std_scores"].as_f64().is_some_and(|spread| spread > 0.), "{first}");
    assert!(first["env/reward/classifier/toxicity"].is_number(), "{first}");
}

/// One missing verdict costs its row, not the run.
#[test]
fn a_judge_that_refuses_costs_a_row() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("judge.toml");
    let url = judge_server::start_refusing_the_first(judge_server::ANTHROPIC);
    fs::write(&file, judge("anthropic", &url)).unwrap();
    let file = file.to_string_lossy().into_owned();
    let out = place.path().join("run");
    let mut command = command(&out, &[&SMALL[..], &["--judge", &file]].concat());
    command.env("ANTHROPIC_API_KEY", "k");
    succeeds(command);
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let first: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    assert_eq!(first["env/dropped"], 1., "{first}");
}
