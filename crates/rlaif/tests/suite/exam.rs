//! `rlaif exam`, and trainings that demand a grade.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use crate::support::{chat_completions, language_model, refusal, repository, succeeded, tokenizer};

/// The shorter one wins.
const SHORTER: &str = "[reward]\nkind = 'length'\nlongest = 1\nper = 1.0\n";

fn fixture(name: &str) -> String {
    repository("crates/rlaif-data/tests/fixtures/exams").join(name).display().to_string()
}

fn exam(folder: &Path, config: &str) -> Output {
    let file = folder.join("exam.toml");
    fs::write(&file, config).unwrap();
    Command::new(env!("CARGO_BIN_EXE_rlaif"))
        .args(["exam", "--config"])
        .arg(file)
        .arg("--out")
        .arg(folder.join("out"))
        .env("TEST_KEY", "sk-secret")
        .output()
        .unwrap()
}

fn result(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("out/exam.json")).unwrap()).unwrap()
}

#[test]
fn a_reward_is_examined_on_the_files_of_every_exam() {
    for (file, name, grade) in [
        // Chat and Safety 0, Reasoning 1: each a third.
        ("reward_bench.jsonl", "reward-bench", 1. / 3.),
        // Math: one of four loses to shorter ones. Ties: the single one loses as well, the several ones
        // tie with the wrong ones: 0.01 · tanh(min(−2, 0)/0 − 1) is all.
        ("reward_bench_2.jsonl", "reward-bench-2", -0.01 / 2.),
        ("judge_bench.jsonl", "judge-bench", 2. / 3.),
        ("hhh_dialogues.jsonl", "hhh", 0.),
        ("hhh_choices.jsonl", "hhh", 1. / 3.),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = format!("family = ['gpt']\n[data]\nfile = '{}'\n{SHORTER}", fixture(file));
        let output = exam(folder.path(), &config);
        let said = succeeded(&output);
        let shown = String::from_utf8(output.stdout).unwrap();
        let found = result(folder.path());
        assert_eq!(found["exam"], name, "{said}");
        assert_eq!(found["questions"], 3);
        let got = found["grade"].as_f64().unwrap();
        assert!((got - grade).abs() < 1e-9, "{file}: {got} instead of {grade}\n{shown}");
        assert!(shown.contains("of 3 questions (95 % interval"), "{shown}");
    }
}

#[test]
fn pairs_of_any_form_with_subsets_makers_and_votes() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String =
        [("x", "long one", 1), ("y", "z", -1), ("one two", "no", 1), ("a b", "c d", 0)]
            .iter()
            .map(|(chosen, rejected, vote)| {
                let row = json!({
                    "prompt": "?", "chosen": chosen, "rejected": rejected, "topic": "t",
                    "by": "gpt-4", "other": "llama", "people": [vote, vote],
                });
                format!("{row}\n")
            })
            .collect();
    let file = folder.path().join("pairs.jsonl");
    fs::write(&file, rows).unwrap();
    let config = format!(
        "family = ['llama']\n[data]\nfile = '{}'\nsubset = 'topic'\nchosen_maker = 'by'\n\
         rejected_maker = 'other'\nvotes = 'people'\n{SHORTER}",
        file.display()
    );
    succeeded(&exam(folder.path(), &config));
    let found = result(folder.path());
    assert_eq!((&found["exam"], &found["subsets"][0]["subset"]), (&json!("pairs"), &json!("t")));
    assert_eq!((&found["grade"], &found["subsets"][0]["ties"]), (&json!(0.25), &json!(2)));
    assert_eq!(found["habits"]["longer_wins"]["share"], 0.);
    assert_eq!(
        found["habits"]["own_family_wins"],
        json!({"share": 0.5, "ci95": found["habits"]["own_family_wins"]["ci95"], "n": 2})
    );
    assert_eq!(found["agreement"]["voted"], 4);
    let refused = exam(folder.path(), &config.replace("'topic'", "'topics'"));
    assert!(refusal(&refused, 2).contains("no column `topics`"));
    let known =
        format!("[data]\nfile = '{}'\nsubset = 's'\n{SHORTER}", fixture("judge_bench.jsonl"));
    let said = refusal(&exam(folder.path(), &known), 2);
    assert!(said.contains("expected no value: it names a column of preference pairs"), "{said}");
}

/// A judge that counts its questions and rates all alike.
fn judge(asked: &Arc<AtomicUsize>) -> String {
    let asked = asked.clone();
    let url = chat_completions(move |_| {
        asked.fetch_add(1, Ordering::SeqCst);
        "5".to_owned()
    });
    format!(
        "kind = 'judge'\nrubric = 'quality'\n[reward.api]\nkind = 'openai'\nmodel = 'm'\n\
         base_url = '{url}'\napi_key_env = 'TEST_KEY'\n"
    )
}

#[test]
fn answers_that_came_are_not_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let config =
        format!("[data]\nfile = '{}'\n[reward]\n{}", fixture("judge_bench.jsonl"), judge(&asked));
    succeeded(&exam(folder.path(), &config));
    let verdicts = folder.path().join("out/verdicts.jsonl");
    let text = fs::read_to_string(&verdicts).unwrap();
    assert_eq!((text.lines().count(), asked.load(Ordering::SeqCst)), (7, 6));
    // A kill in the middle of the fifth verdict.
    let kept: Vec<&str> = text.lines().take(5).collect();
    fs::write(&verdicts, format!("{}\n{{\"row\":4,\"sc", kept.join("\n"))).unwrap();
    let before = result(folder.path());
    succeeded(&exam(folder.path(), &config));
    assert_eq!((asked.load(Ordering::SeqCst), result(folder.path())), (8, before));
    // A tie is not right, and verdicts of another judge are not used.
    assert_eq!(result(folder.path())["grade"], 0.);
    let other = refusal(&exam(folder.path(), &config.replace("'quality'", "'honesty'")), 2);
    assert!(other.contains("`reward.rubric`"), "{other}");
}

#[test]
fn a_training_does_not_start_below_the_grade_that_it_demands() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let config = json!({
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 16,
        "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": false, "pad_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0,
    });
    language_model(&root.join("policy"), &tokenizer("t5"), 1, config);
    let prompts: String =
        (0..4).map(|i| format!("{{\"prompt\": \"Number {i} says\"}}\n")).collect();
    fs::write(root.join("prompts.jsonl"), prompts).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let demand = |at_least: f64, algorithm: &str| {
        format!(
            "[model]\npath = '{root}/policy'\n[data]\nprompts = '{root}/prompts.jsonl'\n\
             [reward]\n{judge}[reward.exam]\nfile = '{file}'\nat_least = {at_least:?}\n\
             [{algorithm}]\nsteps = 1\nbatch_size = 4\n{more}[{algorithm}.generation]\n\
             max_new_tokens = 2\n",
            more = if algorithm == "ppo" { "minibatch_size = 4\n" } else { "group_size = 2\n" },
            root = root.display(),
            judge = judge(&asked),
            file = fixture("judge_bench.jsonl"),
        )
    };
    let run = |config: String, algorithm: &str| {
        let file = root.join("run.toml");
        fs::write(&file, config).unwrap();
        Command::new(env!("CARGO_BIN_EXE_rlaif"))
            .args([algorithm, "--config"])
            .arg(file)
            .arg("--out")
            .arg(root.join("run"))
            .env("TEST_KEY", "sk-secret")
            .output()
            .unwrap()
    };
    for algorithm in ["ppo", "reinforce"] {
        let said = refusal(&run(demand(0.7, algorithm), algorithm), 2);
        assert!(said.contains("reward `judge` has a grade of 0.000 at JudgeBench"), "{said}");
        assert!(said.contains("0.7 is demanded; nothing was trained"), "{said}");
        assert!(!root.join("run").exists());
    }
    let said = refusal(&run(demand(70., "ppo"), "ppo"), 2);
    assert!(said.contains("`reward.exam.at_least` is 70; expected a grade from 0 to 1"), "{said}");
    // A grade that it has: the training says it and starts.
    let before = asked.load(Ordering::SeqCst);
    let said = succeeded(&run(demand(0., "ppo"), "ppo"));
    assert!(said.contains("reward `judge` has a grade of 0.000"), "{said}");
    assert!(asked.load(Ordering::SeqCst) > before + 6);
}
