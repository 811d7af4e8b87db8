//! `rlaif reinforce`, as a program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use rlaif::models::{LanguageModel, LoadOptions};
use serde_json::json;

use crate::rl::{self, Kills};
use crate::support::{metrics, succeeded};

/// A place for runs of `steps` steps.
fn prepare(root: &Path, steps: u64) -> PathBuf {
    let section = format!("steps = {steps}\nbatch_size = 8\ngroup_size = 4\nepochs = 2");
    rl::place(root, "reinforce", &section, "")
}

fn train(config: &Path, out: &Path, set: &[&str]) -> Output {
    let more: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
    rl::train("reinforce", config, out, &more)
}

#[test]
fn every_algorithm_leaves_a_folder_with_everything_and_a_model_that_loads() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path(), 2);
    for algorithm in [
        "grpo",
        "dr_grpo",
        "dapo",
        "rloo",
        "reinforce_plus_plus",
        "reinforce_plus_plus_baseline",
        "gspo",
        "cispo",
        "sapo",
        "dppo_tv",
        "remax",
    ] {
        let out = root.path().join(algorithm);
        let set = format!("reinforce.algorithm={algorithm}");
        let once = matches!(algorithm, "rloo" | "remax");
        let epochs = format!("reinforce.epochs={}", if once { 1 } else { 2 });
        succeeded(&train(&config, &out, &[&set, &epochs]));
        let rows = metrics(&out);
        assert_eq!(rows.len(), 2, "{algorithm}");
        for name in ["ppo/loss/total", "groups/equal", "env/reward_mean", "objective/mismatch_kl"] {
            assert!(rows[1][name].is_number(), "{algorithm}, {name}: {}", rows[1]);
        }
        let log = fs::read_to_string(out.join("log.txt")).unwrap();
        assert!(!log.contains("warning"), "{algorithm}: {log}");
        LanguageModel::load(&out.join("model"), LoadOptions::default()).unwrap();
    }
}

#[test]
fn right_answers_come_from_the_columns_of_public_files() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path(), 1);
    // As GSM8K and as DAPO-Math have them; the last row of each has no answer.
    let rows = |row: fn(usize) -> serde_json::Value| -> String {
        (0..8).map(|i| format!("{}\n", row(i))).collect()
    };
    let gsm8k = rows(|i| {
        let answer = if i == 7 { json!(null) } else { json!(format!("{i} + 0 = {i}\n#### {i}")) };
        json!({"question": format!("Number {i} says"), "answer": answer})
    });
    let dapo = rows(|i| {
        let answer = if i == 7 { json!(null) } else { json!(i.to_string()) };
        json!({"data_source": "math_dapo", "prompt": format!("Number {i} says"),
            "reward_model": {"ground_truth": answer, "style": "rule"}})
    });
    for (name, text, set) in [
        ("gsm8k", gsm8k.clone(), &["reward={kind=\"math-answer\"}"][..]),
        ("dapo", dapo.clone(), &["reward={kind=\"math-answer\"}"]),
        (
            "named columns",
            gsm8k,
            &[
                "data.column=question",
                "data.reference_column=answer",
                "reward={kind=\"math-answer\"}",
            ],
        ),
        ("a path", dapo, &["reward={kind=\"math-answer\",answer=\"reward_model.ground_truth\"}"]),
    ] {
        let file = root.path().join(format!("{name}.jsonl"));
        fs::write(&file, text).unwrap();
        let out = root.path().join(name);
        let data = format!("data.prompts={}", file.display());
        let set = [&[&*data, "reinforce.batch_size=32"], set].concat();
        succeeded(&train(&config, &out, &set));
        let row = &metrics(&out)[0];
        // One prompt of eight, four responses to each.
        assert_eq!(row["env/dropped"], 4.0, "{name}: {row}");
        assert!(row["env/reward_mean"].as_f64().unwrap() < 0.5, "{name}: {row}");
    }
}

#[test]
fn bad_input_is_refused_before_the_first_step_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path(), 2);
    for (set, says) in [
        ("reinforce.group_size=1", "`group_size` is 1"),
        ("reinforce.batch_size=10", "`reinforce.batch_size` is 10"),
        (
            "reinforce.batch_size=100",
            "at least 25 of them (`reinforce.batch_size` divided by `group_size`)",
        ),
        ("reinforce.surrogate={truncated={most=0.2}}", "`surrogate.truncated.most` is 0.2"),
        ("reinforce.algorithm=grpp", "grpp"),
        (
            "reinforce.generation.sampling={method='greedy'}",
            "`reinforce.generation.sampling` is greedy",
        ),
        ("reinforce.curriculum={start=0.5}", "`reinforce.curriculum.steps` is 0"),
        ("reinforce.curriculum={return_after=5}", "`reinforce.curriculum.return_after` is 5"),
        ("reinforce.curriculum={column='solved'}", "`solved`"),
        ("environment={kind='guess',low=5,high=4}", "`environment.high` is 4"),
        ("environment={kind='tools',tools=[]}", "`environment.tools` is none"),
        ("environment={kind='maze'}", "maze"),
        ("environment={kind='tools',tools=[{kind='clock'}]}", "clock"),
        ("environment={kind='guess'}", "expected a decoder-only model"),
    ] {
        let out = root.path().join("refused");
        let output = train(&config, &out, &[set]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{set}: {told}");
        assert!(told.contains(says), "{set}: {told}");
        assert!(!out.exists(), "{set} leaves a folder");
    }
}

/// A column of pass rates says where a curriculum begins.
#[test]
fn prompts_come_from_easy_to_hard() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path(), 4);
    let write = |rate: &dyn Fn(usize) -> serde_json::Value| {
        let row = |i| json!({"prompt": format!("Number {i} says"), "rate": rate(i)});
        let rows: String = (0..20).map(|i| format!("{}\n", row(i))).collect();
        fs::write(root.path().join("prompts.jsonl"), rows).unwrap();
    };
    write(&|i| json!(f64::from(i as u32) / 20.));
    let set = [
        "reinforce.curriculum={column=\"rate\",start=0.1,steps=3,solved_at=9.0}",
        "train.samples=8",
        "reinforce.algorithm=dr_grpo",
    ];
    let out = root.path().join("curriculum");
    succeeded(&train(&config, &out, &set));
    let used: Vec<f64> =
        metrics(&out).iter().map(|row| row["curriculum/prompts"].as_f64().unwrap()).collect();
    assert_eq!(used, [2., 8., 14., 20.]);
    assert_eq!(metrics(&out)[0]["curriculum/pass_rate"], 0.);
    let samples = fs::read_to_string(out.join("samples.jsonl")).unwrap();
    let first = samples.lines().filter(|line| line.contains("\"step\":1,"));
    let easy = |line: &str| line.contains("Number 18 says") || line.contains("Number 19 says");
    assert!(first.clone().count() == 8 && first.clone().all(easy), "{samples}");

    write(&|i| if i == 5 { json!(40) } else { json!(null) });
    let output = train(&config, &root.path().join("percent"), &set);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && told.contains("`rate`, which has 40 in the row"),
        "{told}"
    );
}

/// A run that was killed within a step and resumed equals an uninterrupted one.
#[test]
fn killed_and_resumed_it_is_the_uninterrupted_run_bit_by_bit() {
    let root = tempfile::tempdir().unwrap();
    let config = prepare(root.path(), 12);
    let files = ["checkpoints/step-12/optimizer.safetensors", "checkpoints/step-12/reinforce.json"];
    let curriculum = "reinforce.curriculum={start=0.5,steps=9,leave_out_after=1,return_after=2,\
                      solved_at=0.0}";
    let dapo = ["--set", "reinforce.algorithm=dapo", "--set", curriculum];
    rl::killed_and_resumed("reinforce", &config, &dapo, &Kills { all: 5, on_the_way: 2 }, &files);
}

/// A run file with an environment, for a tiny Llama.
fn with_environment(root: &Path, steps: u64) -> PathBuf {
    let config = prepare(root, steps);
    rl::add_environment(root, &config);
    config
}

/// The same with responses that are sampled beside updates, and with those of earlier steps.
#[test]
fn asynchronous_and_replayed_it_is_the_uninterrupted_run_bit_by_bit() {
    for rollouts in ["asynchronous", "synchronous"] {
        let root = tempfile::tempdir().unwrap();
        let config = prepare(root.path(), 12);
        let files = [
            "checkpoints/step-12/optimizer.safetensors",
            "checkpoints/step-12/reinforce.json",
            "checkpoints/step-12/replay.json",
        ];
        let more = [
            format!("reinforce.rollouts={rollouts}"),
            "reinforce.replay={batch_size=4,max_staleness=3}".to_owned(),
            "reinforce.correction={truncate={level=\"token\",most=2.0}}".to_owned(),
            "reinforce.curriculum={start=0.5,steps=9,solved_at=0.0}".to_owned(),
        ];
        let more: Vec<&str> = more.iter().flat_map(|set| ["--set", set]).collect();
        let kills = Kills { all: 5, on_the_way: 2 };
        rl::killed_and_resumed("reinforce", &config, &more, &kills, &files);
        let rows = metrics(&config.with_file_name("whole"));
        let oldest = rows.iter().map(|row| row["rollout/staleness_max"].as_f64().unwrap());
        let oldest: Vec<f64> = oldest.collect();
        assert!(oldest[0] == 0. && oldest.contains(&3.), "{oldest:?}");
        assert!(oldest.iter().all(|age| *age <= 3.), "{oldest:?}");
        let log = fs::read_to_string(config.with_file_name("whole").join("log.txt")).unwrap();
        assert!(!log.contains("warning"), "{log}");
    }
}

#[test]
fn episodes_killed_and_resumed_are_those_of_the_uninterrupted_run() {
    let root = tempfile::tempdir().unwrap();
    let config = with_environment(root.path(), 12);
    let files = ["checkpoints/step-12/optimizer.safetensors"];
    rl::killed_and_resumed("reinforce", &config, &[], &Kills { all: 5, on_the_way: 2 }, &files);
    let rows = metrics(&config.with_file_name("whole"));
    assert!(rows[0]["episodes/turns"].as_f64().unwrap() > 1., "{}", rows[0]);
    assert!(rows[0]["episodes/out_of_turns"].is_number(), "{}", rows[0]);
}

#[test]
fn an_environment_that_gives_no_reward_needs_one() {
    let root = tempfile::tempdir().unwrap();
    let config = with_environment(root.path(), 1);
    let text = fs::read_to_string(&config).unwrap();
    let (before, after) = text.split_once("[reward]").unwrap();
    let (_, after) = after.split_once("[reinforce]").unwrap();
    fs::write(&config, format!("{before}[reinforce]{after}")).unwrap();
    let out = root.path().join("guess");
    succeeded(&train(&config, &out, &[]));
    assert!(metrics(&out)[0]["env/reward/environment"].is_number());
    let tools = "environment={kind='tools',form='plain',tools=[{kind='calculator'}]}";
    let refused = train(&config, &root.path().join("tools"), &[tools]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    let says = "`reward` is none, and an environment that gives no rewards";
    assert!(refused.status.code() == Some(2) && told.contains(says), "{told}");
    let reward = "reward={kind='math-answer'}";
    let missing = "reinforce.scores={missing={value=0.0}}";
    let out = root.path().join("tools");
    succeeded(&train(&config, &out, &[tools, reward, missing, "prompt.plain=chat"]));
    assert!(metrics(&out)[0]["episodes/over"].as_f64().unwrap() > 4.);
}
