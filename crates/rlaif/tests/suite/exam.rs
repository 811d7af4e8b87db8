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

/// Rows of two turns, whose references and answers are columns.
fn conversations(root: &Path) -> Vec<Value> {
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    let row = |n: usize| {
        json!({
            "prompt": [
                turn("system", "Be kind."),
                turn("user", "Say something kind."),
                turn("assistant", "I like you."),
                turn("user", &format!("What is {n} + 1?")),
            ],
            "chosen": [turn("assistant", &format!("It is {}.", n + 1))],
            "rejected": [turn("assistant", "Who knows?")],
            "gold": (n + 1).to_string(),
            "written": format!("It is {}.", n + 1),
        })
    };
    let rows: Vec<Value> = (0..3).map(row).collect();
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(root.join("pairs.jsonl"), text).unwrap();
    rows
}

/// `rlaif judge` reads rows as a training puts them to its reward.
#[test]
fn exams_and_labels_score_conversations_as_judge_does() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let rows = conversations(root);
    let run = |arguments: &[&str]| {
        let mut rlaif = Command::new(env!("CARGO_BIN_EXE_rlaif"));
        rlaif.args(arguments).current_dir(root).env("OMP_NUM_THREADS", "1").output().unwrap()
    };
    let lines = |path: &str| -> Vec<Value> {
        let text = fs::read_to_string(root.join(path)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let model = repository("crates/rlaif-rewards/tests/fixtures/reward");
    let chat = format!("kind = 'classifier'\nmodel = '{}'\ninput = 'chat'\n", model.display());
    fs::write(root.join("reward.toml"), &chat).unwrap();
    let judged: String = rows
        .iter()
        .flat_map(|row| {
            ["chosen", "rejected"]
                .map(|side| json!({"prompt": row["prompt"], "response": row[side]}).to_string())
        })
        .map(|row| row + "\n")
        .collect();
    fs::write(root.join("rows.jsonl"), judged).unwrap();
    let judge = ["judge", "--config", "reward.toml", "--input", "rows.jsonl", "--out", "scores"];
    succeeded(&run(&judge));
    let expected: Vec<f64> =
        lines("scores").iter().map(|row| row["score"].as_f64().unwrap()).collect();

    let data = "[data]\nfile = 'pairs.jsonl'\n";
    fs::write(root.join("exam.toml"), format!("{data}[reward]\n{chat}")).unwrap();
    let said = succeeded(&run(&["exam", "--config", "exam.toml", "--out", "exam"]));
    assert!(!said.contains("leaves out"), "{said}");
    let verdicts = lines("exam/verdicts.jsonl");
    for verdict in &verdicts[1..] {
        let row = verdict["row"].as_u64().unwrap() as usize;
        assert_eq!(verdict["score"].as_f64(), Some(expected[row]), "{verdicts:?}");
    }
    assert_eq!(verdicts.len(), 7);

    let facet = format!("[[facets]]\nname = 'kind'\n[facets.reward]\n{chat}");
    fs::write(root.join("label.toml"), format!("ties = 'keep'\n{data}{facet}")).unwrap();
    succeeded(&run(&["label", "--config", "label.toml", "--out", "labels"]));
    let labels = lines("labels");
    for (label, scores) in labels.iter().zip(expected.chunks(2)) {
        let probability = 1. / (1. + (-(scores[0] - scores[1]).abs()).exp());
        let found = label["probability"].as_f64().unwrap();
        assert!((found - probability).abs() < 1e-6, "{label} for {scores:?}");
    }
    assert_eq!(labels.len(), 3);
    assert_eq!(labels[0]["prompt"], rows[0]["prompt"]);
}

#[test]
fn exams_and_labels_have_references_and_columns_and_tell_what_is_not_read() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let rows = conversations(root);
    let run = |command: &str, config: &str| {
        fs::write(root.join("file.toml"), config).unwrap();
        let out = root.join(format!("{command}-out"));
        let _ = fs::remove_dir_all(&out).or_else(|_| fs::remove_file(&out));
        let mut rlaif = Command::new(env!("CARGO_BIN_EXE_rlaif"));
        rlaif.args([command, "--config", "file.toml", "--out"]).arg(&out).current_dir(root);
        let said = succeeded(&rlaif.output().unwrap());
        (said, out)
    };
    let math = "kind = 'math-answer'\nanswer = 'gold'\n";
    let overlap = "kind = 'overlap'\nmeasure = 'rougeL'\n";
    let data = "[data]\nfile = 'pairs.jsonl'\n";
    for (more, reward) in [("", math), ("reference_column = 'written'\n", overlap)] {
        let (said, out) = run("exam", &format!("{data}{more}[reward]\n{reward}"));
        let report: Value =
            serde_json::from_slice(&fs::read(out.join("exam.json")).unwrap()).unwrap();
        assert_eq!((&report["grade"], &report["missing"]), (&json!(1.), &json!(0)), "{report}");
        assert!(said.contains("3 rows have messages of the system in their messages"), "{said}");

        let facet = format!("[[facets]]\nname = 'right'\n[facets.reward]\n{reward}");
        let (said, out) = run("label", &format!("{data}{more}{facet}"));
        let labels = fs::read_to_string(out).unwrap();
        assert_eq!(labels.lines().count(), 3, "{labels}");
        for (label, row) in labels.lines().zip(&rows) {
            let label: Value = serde_json::from_str(label).unwrap();
            assert_eq!(label["chosen"], row["chosen"], "{labels}");
        }
        assert!(said.contains("3 rows have messages of the system in their messages"), "{said}");
    }
    // The same of several responses to a prompt.
    let group = json!({"prompt": rows[0]["prompt"], "gold": "1", "responses": ["2", "1"]});
    fs::write(root.join("pairs.jsonl"), group.to_string()).unwrap();
    let facet = format!("[[facets]]\nname = 'right'\n[facets.reward]\n{math}");
    let (_, out) = run("label", &format!("{data}{facet}"));
    let label: Value = serde_json::from_str(&fs::read_to_string(out).unwrap()).unwrap();
    assert_eq!((&label["chosen"], &label["prompt"]), (&json!("1"), &rows[0]["prompt"]));
}
