//! `rlaif ppo` and `rlaif bench ppo`, as programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rlaif::lm::SequenceClassifier;
use rlaif::models::{LanguageModel, LoadOptions};
use rlaif::tch::Tensor;
use rlaif::text::HfTokenizer;
use serde_json::{Value, json};

use crate::rl::{self, Kills, command};
use crate::support::{chat_completions, classifier, language_model, metrics, succeeded, tokenizer};

/// A place for runs of `steps` steps.
fn prepare(root: &Path, steps: u64, more: &str) -> PathBuf {
    let section = format!(
        "steps = {steps}\nbatch_size = 4\nminibatch_size = 2\nepochs = 2\n\
         scores = {{ scaling = \"scale\" }}"
    );
    rl::place(root, "ppo", &section, more)
}

fn train(config: &Path, out: &Path, more: &[&str]) -> Output {
    rl::train("ppo", config, out, more)
}

#[test]
fn a_run_leaves_a_folder_with_everything_and_a_model_that_loads() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path(), 3, "");
    let out = root.path().join("out");
    succeeded(&train(&config, &out, &["--set", "train.samples=2"]));
    let rows = metrics(&out);
    assert_eq!(rows.len(), 3);
    for name in ["objective/kl", "ppo/loss/total", "ppo/val/var_explained", "env/reward_mean"] {
        assert!(rows[2][name].is_number(), "{name}: {}", rows[2]);
    }
    assert!(rows[0]["objective/kl"].as_f64().unwrap().abs() < 1e-5);
    let samples = fs::read_to_string(out.join("samples.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 6);
    let sample: Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
    assert!(sample["prompt"].as_str().unwrap().starts_with("Number"));
    assert!(sample["score"].is_number() && sample["finish_reason"].is_string(), "{sample}");
    let resolved = fs::read_to_string(out.join("run.toml")).unwrap();
    assert!(resolved.contains("gae_lambda = 0.95"), "{resolved}");
    assert!(out.join("value_head.safetensors").exists() && out.join("findings.json").exists());
    assert!(fs::read_to_string(out.join("log.txt")).unwrap().contains("the result is in"));
    LanguageModel::load(&out.join("model"), LoadOptions::default()).unwrap();
    HfTokenizer::from_folder(out.join("model")).unwrap();
}

/// The value function reads the environment's tokens, and no loss has them.
#[test]
fn episodes_with_an_environment_are_the_responses() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path(), 2, "");
    rl::add_environment(root.path(), &config);
    let out = root.path().join("out");
    succeeded(&train(&config, &out, &["--set", "ppo.scores.scaling=none"]));
    let rows = metrics(&out);
    let of = |name: &str| rows[1][name].as_f64().unwrap();
    assert!(of("episodes/turns") > 1., "{}", rows[1]);
    assert!(of("episodes/own_tokens") < of("tokens/responses_len_mean"), "{}", rows[1]);
    assert!(of("ppo/val/error").is_finite() && of("ppo/loss/total").is_finite());
    assert!(rows[0]["objective/kl"].as_f64().unwrap().abs() < 1e-5);

    // The environment rewards, so no other reward is needed; tools do not.
    let text = fs::read_to_string(&config).unwrap();
    let (before, rest) = text.split_once("[reward]").unwrap();
    let without = [before, &rest[rest.find("[ppo]").unwrap()..]].concat();
    fs::write(&config, &without).unwrap();
    succeeded(&train(&config, &root.path().join("own"), &["--set", "ppo.scores.scaling=none"]));
    let tools = "[environment]\nkind = \"tools\"\ntools = [{ kind = \"calculator\" }]\n[episodes]";
    let game = "[environment]\nkind = \"guess\"\nhigh = 9\n[episodes]";
    fs::write(&config, without.replace(game, tools)).unwrap();
    let output = train(&config, &root.path().join("tools"), &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("an environment that gives no rewards"), "{told}");
}

#[test]
fn lora_gives_an_adapter_and_a_rule_ends_the_run() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path(), 5, "");
    let out = root.path().join("out");
    let rule = "ppo.stop.metric={name = 'env/reward_mean', window = 2, at_least = -100.0}";
    succeeded(&train(&config, &out, &["--set", "model.lora.rank=2", "--set", rule]));
    assert_eq!(metrics(&out).len(), 2);
    assert!(fs::read_to_string(out.join("log.txt")).unwrap().contains("stopped after step 2"));
    // The run has ended: resumed, it makes no further step.
    fs::remove_dir_all(out.join("model")).unwrap();
    succeeded(&command(&["ppo", "--out", out.to_str().unwrap(), "--resume"]).output().unwrap());
    assert_eq!(metrics(&out).len(), 2);
    let mut policy =
        LanguageModel::load(&root.path().join("policy"), LoadOptions::default()).unwrap();
    policy.adapters().load("ppo", &out.join("model")).unwrap();
    // A rule may use a metric of the reward; one that no step has is reported.
    let recorded = metrics(&out)[0].as_object().unwrap().clone();
    let name = recorded.keys().find(|name| name.ends_with("/running_mean")).unwrap();
    for (name, steps) in [(name.as_str(), 2), ("env/reward_meen", 5)] {
        let out = root.path().join(format!("by-{steps}"));
        let rule = format!("ppo.stop.metric={{name='{name}', window=2, at_least=-1000.0}}");
        succeeded(&train(&config, &out, &["--set", &rule]));
        assert_eq!(metrics(&out).len(), steps, "{name}");
        let log = fs::read_to_string(out.join("log.txt")).unwrap();
        assert_eq!(log.contains("has no such number"), steps == 5, "{log}");
    }
}

/// The effect of each setting of a run file shows in the run's numbers.
#[test]
fn settings_of_a_run_file_reach_the_algorithm() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path(), 2, "");
    let run = |name: &str, set: &[&str]| {
        let out = root.path().join(name);
        let more: Vec<&str> = set.iter().flat_map(|one| ["--set", one]).collect();
        succeeded(&train(&config, &out, &more));
        (metrics(&out), out)
    };
    let number = |rows: &[Value], name: &str| rows.last().unwrap()[name].as_f64().unwrap();
    // A learning rate at which ratios move away from 1 within a step.
    let fast = "ppo.optimizer.lr=0.02";
    let (plain, plain_out) = run("plain", &[fast]);

    let (dual, _) = run("dual", &[fast, "ppo.dual_clip=1.001"]);
    assert_ne!(plain[0]["ppo/loss/policy"], dual[0]["ppo/loss/policy"]);

    let (penalty, _) = run("eos", &[fast, "ppo.scores.missing_eos_penalty=1.0"]);
    let share = 1. - plain[0]["tokens/responses_ended"].as_f64().unwrap();
    assert!(share > 0.);
    assert!(number(&penalty[..1], "ppo/mean_scores") < number(&plain[..1], "ppo/mean_scores"));

    let (stopped, _) = run("target", &[fast, "ppo.target_kl=1e-6"]);
    assert_eq!(number(&stopped, "ppo/stopped_early"), 1.);
    assert!(number(&stopped, "ppo/updates") < number(&plain, "ppo/updates"));

    let (_, out) = run("kl", &[fast, "ppo.stop.max_kl=1e-4", "ppo.steps=9"]);
    assert!(metrics(&out).len() < 9);
    assert!(fs::read_to_string(out.join("log.txt")).unwrap().contains("`objective/kl` is"));

    for estimator in ["k1", "abs", "k2", "k3", "full"] {
        let set = format!("ppo.kl.estimator='{estimator}'");
        let fixed = "ppo.kl.control={fixed={coef=0.1}}";
        let (rows, _) = run(estimator, &[fast, &set, fixed]);
        assert!(number(&rows[..1], "objective/kl").abs() < 1e-5, "{estimator}");
        assert!(number(&rows, "objective/kl").abs() > 1e-4, "{estimator}");
        assert_eq!(number(&rows, "objective/kl_coef"), 0.1);
    }

    // Frozen lower layers, which the reference shares; and a separate trunk for the value function.
    let frozen = "trainable={all_but=['shared', 'encoder']}";
    let policy = format!("value.model='{}'", root.path().join("policy").display());
    let (_, out) = run("frozen", &[fast, frozen, &policy]);
    let read = |file: PathBuf| -> Vec<(String, Tensor)> { Tensor::read_safetensors(file).unwrap() };
    let start = read(root.path().join("policy/model.safetensors"));
    for (name, tensor) in read(out.join("model/model.safetensors")) {
        let was = &start.iter().find(|(n, _)| *n == name).unwrap().1;
        let frozen = name.contains("shared") || name.contains("encoder");
        assert_eq!(was.equal(&tensor), frozen, "{name}");
    }
    let of_value = read(out.join("value_head.safetensors"));
    assert!(of_value.iter().any(|(name, _)| name.starts_with("value.")), "a trunk of its own");
    let saved = plain_out.join("value_head.safetensors");
    let of_value = read(saved.clone());
    assert!(of_value.iter().all(|(name, _)| name.starts_with("v_head.")));

    // A run that starts from the head of another one, and does not train it.
    let head = format!("value.head='{}'", saved.display());
    let (_, out) = run("head", &[fast, &head, "ppo.optimizer.lr=0.0"]);
    for (name, tensor) in read(out.join("value_head.safetensors")) {
        let was = &of_value.iter().find(|(n, _)| *n == name).unwrap().1;
        assert!(was.equal(&tensor), "{name}");
    }
}

/// PPO-ptx from a run file: texts are mixed in, and incomplete settings are refused.
#[test]
fn pretraining_texts_are_mixed_in() {
    let root = tempfile::tempdir().unwrap();
    let texts = root.path().join("texts.jsonl");
    let rows: String = (0..5)
        .map(|i| format!("{{\"prompt\": \"Number {i}\", \"response\": \"is a number\"}}\n"))
        .collect();
    fs::write(&texts, rows).unwrap();
    let section = format!("[pretraining]\nfile = \"{}\"\n", texts.display());
    let config = prepare(root.path(), 3, &section);
    let weights = "ppo.pretraining={coef=2.0, batch_size=2}";

    let out = root.path().join("out");
    succeeded(&train(&config, &out, &["--set", weights, "--set", "ppo.optimizer.lr=0.01"]));
    let losses: Vec<f64> =
        metrics(&out).iter().map(|row| row["ppo/loss/pretraining"].as_f64().unwrap()).collect();
    // Twice the loss, which starts near the logarithm of the vocabulary size for random weights.
    assert!(losses[2] < losses[0] && losses[0] > 2., "{losses:?}");
    assert!(fs::read_to_string(out.join("log.txt")).unwrap().contains("5 rows of pre-training"));

    let refused = |config: &Path, more: &[&str], says: &str| {
        let output = train(config, &root.path().join("refused"), more);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(says), "{told}");
        assert!(!root.path().join("refused").exists());
    };
    refused(&config, &[], "expected used with `ppo.pretraining = { coef = .., batch_size = .. }`");
    let columns = ["--set", weights, "--set", "pretraining.columns.response='answer'"];
    refused(&config, &columns, "answer");
    let texts = "pretraining.columns={format='texts', text='response'}";
    let texts = ["--set", weights, "--set", texts];
    refused(&config, &texts, "columns.format");
    let config = prepare(root.path(), 3, "");
    refused(
        &config,
        &["--set", weights],
        "`ppo.pretraining` is given without `[pretraining]`; expected used with `pretraining.file`",
    );
}

/// At its first step, a value function initialised from a reward model returns the reward model's
/// scores.
#[test]
fn a_value_function_starts_from_a_reward_model() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path(), 1, "");
    let text = tokenizer("llama3");
    let llama = |architecture: &str| {
        json!({
            "model_type": "llama", "architectures": [architecture], "hidden_size": 16,
            "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1,
            "bos_token_id": 2, "id2label": {"0": "score"}, "label2id": {"score": 0},
        })
    };
    let [policy, reward, other] = ["policy", "reward", "other"].map(|name| root.path().join(name));
    fs::remove_dir_all(&policy).unwrap();
    language_model(&policy, &text, 2, llama("LlamaForCausalLM"));
    let judge = llama("LlamaForSequenceClassification");
    let mut small = judge.clone();
    small["vocab_size"] = json!(8);
    classifier(&other, &text, 4, small);
    let judge = classifier(&reward, &text, 3, judge);

    let model = |folder: &Path| format!("value.model='{}'", folder.display());
    let start = "value.init='reward_model'";
    let out = root.path().join("out");
    let still = "ppo.optimizer.lr=0.0";
    succeeded(&train(&config, &out, &["--set", start, "--set", &model(&reward), "--set", still]));
    let tensors = Tensor::read_safetensors(out.join("value_head.safetensors")).unwrap();
    for (name, tensor) in judge.parameters().iter() {
        let kept = match name {
            "score.weight" => "v_head.summary.weight".to_owned(),
            name => format!("value.{name}"),
        };
        let found = tensors.iter().find(|(name, _)| *name == kept);
        assert!(found.is_some_and(|(_, found)| found.equal(tensor)), "{name}");
    }
    assert!(metrics(&out)[0]["ppo/val/vpred"].as_f64().unwrap() != 0.);

    for (set, says) in [
        (vec![start.to_owned()], "or the name of that model in `value.model`"),
        (vec![start.to_owned(), model(&policy)], "no `score.weight`"),
        (
            vec![start.to_owned(), model(&other)],
            "expected a model with the policy's vocabulary, 426",
        ),
    ] {
        let more: Vec<&str> = set.iter().flat_map(|one| ["--set", one.as_str()]).collect();
        let output = train(&config, &root.path().join("refused"), &more);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(says), "{told}");
    }
}

/// Symptoms are written to the log and to findings.json during the run, with advice.
#[test]
fn what_goes_wrong_is_told_with_what_to_change() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path(), 4, "");
    let out = root.path().join("out");
    let equal = "reward={kind='length', longest=100, per=1.0}";
    succeeded(&train(&config, &out, &["--set", equal]));
    let findings: Vec<Value> =
        serde_json::from_slice(&fs::read(out.join("findings.json")).unwrap()).unwrap();
    let found = findings.iter().find(|one| one["symptom"] == "equal_scores").unwrap();
    assert_eq!(found["step"], 3);
    let log = fs::read_to_string(out.join("log.txt")).unwrap();
    for part in ["seen", "cause", "advice"] {
        assert!(log.contains(found[part].as_str().unwrap()), "{part}: {log}");
    }
    assert!(found["advice"].as_str().unwrap().contains("`scores.clip`"));
}

/// Killed at twenty random moments and resumed each time, a run equals an uninterrupted one.
#[test]
fn killed_and_resumed_it_is_the_uninterrupted_run_bit_by_bit() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path(), 24, "");
    let last = ["policy.safetensors", "value.safetensors", "optimizer.safetensors", "ppo.json"]
        .map(|file| format!("checkpoints/step-24/{file}"));
    let mut files: Vec<&str> = last.iter().map(String::as_str).collect();
    files.push("value_head.safetensors");
    rl::killed_and_resumed("ppo", &config, &[], &Kills { all: 20, on_the_way: 6 }, &files);
}

#[test]
fn bad_input_is_refused_before_the_first_step_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path(), 3, "");
    let refused = |set: &str, says: &str| {
        let out = root.path().join("refused");
        let output = train(&config, &out, &["--set", set]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{set}: {told}");
        assert!(told.contains(says), "{set}: {told}");
        assert!(!out.exists(), "{set} leaves a folder");
    };
    refused("ppo.minibatch_size=3", "`ppo.minibatch_size` is 3; expected a divisor");
    refused(
        "ppo.generation.sampling={method='sample', top_k=50}",
        "`ppo.generation.sampling.top_k`",
    );
    refused("ppo.mini_batch_size=2", "did you mean `minibatch_size`?");
    refused("ppo.kl.control={fixed={coef=-1.0}}", "`ppo.kl.control.fixed.coef` is -1");
    refused("ppo.generation.batch_size=0", "`ppo.generation.batch_size` is 0");
    refused("ppo.optimizer.lr='fast'", "`ppo.optimizer.lr`: ");
    refused("ppo.optimizer.rate=1.0", "`ppo.optimizer.rate`: ");
    refused("ppo.optimizer.lr=-1.0", "`ppo.optimizer.lr` is -1; expected a finite number");
    let never = "ppo.stop.metric={name='env/reward_mean', window=1, at_least=nan}";
    refused(never, "`ppo.stop.metric.at_least`: is NaN; expected a finite number");
    refused("ppo.batch_size=40", "data.prompts");
    refused("ppo.steps=9223372036854775807", "`ppo.steps` is 9223372036854775807");
    refused("train.keep=0", "`train.keep` is 0");
    refused("output.keep=1", "`output.keep`: renamed to `train.keep`");
    refused("ppo.seed=1", "`ppo.seed`: renamed to `seed`");
    refused("reward={kind='length', longest=-3, per=1.0}", "`reward.longest`: found integer `-3`");
    refused("data.max_tokens=1", "data.prompts");
    refused("data.column='question'", "question");
    refused("reward={kind='length', longest=3}", "per");
    refused("model.path='nowhere/at-all/x'", "nowhere");
    refused("ppo.epochs=1000000000", "`ppo.epochs` is 1000000000");
    let cold = "ppo.generation.sampling={method='sample', temperature=1e-30}";
    refused(cold, "`ppo.generation.sampling.temperature` is");
    // Weights that would be trained but not saved.
    let out = root.path().join("refused");
    let both = ["--set", "model.lora.rank=2", "--set", "trainable={all_but=['norm']}"];
    let told = String::from_utf8_lossy(&train(&config, &out, &both).stderr).into_owned();
    assert!(
        told.contains("`trainable` is given beside `model.lora`; expected no value")
            && !out.exists(),
        "{told}"
    );
}

#[test]
fn bench_ppo_times_the_phases_of_a_step() {
    let root = tempfile::tempdir().unwrap();
    prepare(root.path(), 1, "");
    let policy = root.path().join("policy");
    for more in [&["--lora", "2", "--activations", "recompute", "--microbatch-size", "1"][..], &[]]
    {
        let mut arguments = vec!["bench", "ppo", "--policy", policy.to_str().unwrap()];
        arguments.extend([
            "--batch-size",
            "4",
            "--minibatch-size",
            "2",
            "--epochs",
            "1",
            "--steps",
            "1",
        ]);
        arguments.extend(["--prompt-len", "4-6", "--new-tokens", "3", "--json"]);
        arguments.extend(more);
        let output = command(&arguments).output().unwrap();
        succeeded(&output);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let phases = found["phases"].as_object().unwrap();
        let sum: f64 = phases.values().map(|s| s.as_f64().unwrap()).sum();
        assert_eq!(phases.len(), 3);
        assert!((found["sec_per_step"].as_f64().unwrap() - sum).abs() < 1e-9, "{found}");
        assert!(found["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    }
}

/// Ctrl-C waited for the judge, for as long as its answer took.
#[test]
fn ctrl_c_is_heard_while_a_judge_is_waited_for_and_nothing_is_lost() {
    let root = tempfile::tempdir().unwrap();
    let hangs = Arc::new(AtomicBool::new(false));
    let hanging = hangs.clone();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    // The same verdict for the same text, and after a few of them none for a minute.
    let url = chat_completions(move |body| {
        if counted.fetch_add(1, Ordering::SeqCst) >= 6 && hanging.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_secs(60));
        }
        format!("{}", body.bytes().map(u32::from).sum::<u32>() % 10 + 1)
    });
    let config = prepare(root.path(), 3, "");
    let judge = format!(
        "reward={{kind='judge',name='j',instructions='Rate.',template='{{response}}',\
         scale={{low=1,high=10}},answer='number',\
         api={{kind='openai',model='m',base_url='{url}',api_key_env='TEST_KEY'}},\
         limits={{timeout_s=2.0,retries=20}}}}"
    );
    let begin = |arguments: &[&str], out: &Path| {
        let mut command = command(arguments);
        command.arg("--out").arg(out).env("TEST_KEY", "sk-secret").stderr(Stdio::piped());
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let first = ["ppo", "--config", config.to_str().unwrap(), "--set", &judge];
    let (whole, cut) = (root.path().join("whole"), root.path().join("cut"));
    let output = begin(&first, &whole).wait_with_output().unwrap();
    succeeded(&output);

    hangs.store(true, Ordering::SeqCst);
    asked.store(0, Ordering::SeqCst);
    let mut child = begin(&first, &cut);
    // The first step is done, and the second waits for its judge.
    while asked.load(Ordering::SeqCst) < 7 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let start = std::time::Instant::now();
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(said.contains("continue with: rlaif ppo --resume"), "{said}");

    hangs.store(false, Ordering::SeqCst);
    // With another time-out and another variable for the key, as a user might do after such a
    // failure.
    let again = ["ppo", "--resume", "--set", "reward.limits.timeout_s=60.0"];
    succeeded(&begin(&again, &cut).wait_with_output().unwrap());
    let scores = |run: &Path| -> Vec<Value> {
        let rows = metrics(run);
        rows.iter().map(|row| json!([row["step"], row["env/reward_mean"], row["loss"]])).collect()
    };
    assert_eq!(scores(&cut), scores(&whole));
    let weights = |run: &Path| fs::read(run.join("model/model.safetensors")).unwrap();
    assert!(weights(&cut) == weights(&whole), "the weights differ");
}
