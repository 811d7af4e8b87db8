//! `rlaif label` with questions about all responses to a prompt at once.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::support::{chat_completions, refusal, succeeded};

type Questions = Arc<Mutex<HashMap<String, usize>>>;

/// A judge that prefers the shortest response, and the first of equally long ones, and does not answer
/// about a response that declines; it counts each question.
fn judge(asked: &Questions) -> String {
    let asked = asked.clone();
    let url = chat_completions(move |body| {
        let body: Value = serde_json::from_str(body).unwrap();
        let text = body["messages"][1]["content"].as_str().unwrap().to_owned();
        *asked.lock().unwrap().entry(text.clone()).or_insert(0) += 1;
        if text.contains("declines") {
            return "They are all fine.".to_owned();
        }
        let parts = text.split("\nResponse ").skip(1);
        let length =
            |part: &str| part.split_once("]]\n").unwrap().1.split("\n[[end").next().unwrap().len();
        let shortest = parts.min_by_key(|part| length(part)).unwrap();
        let label = &shortest[..1];
        match text.ends_with("Explanation:") {
            true => format!("It is brief.\nPreferred response={label}"),
            false => label.to_owned(),
        }
    });
    format!(
        "[judge]\nreasks = 0\nname = 'brief judge'\nlimits = {{ concurrency = 1 }}\n[judge.api]\n\
         kind = 'openai'\nmodel = 'm'\nbase_url = '{url}'\napi_key_env = 'TEST_KEY'\n[judge.price]\n\
         input_per_million = 1.0\noutput_per_million = 1.0\n\
         [[facets]]\nname = 'brief'\npreamble = 'The shortest response is the best.'\n"
    )
}

fn start(folder: &Path, config: &str, out: &str) -> Command {
    let file = folder.join("label.toml");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.args(["label", "--config"]).arg(file).arg("--out").arg(folder.join(out));
    command.env("TEST_KEY", "sk-secret");
    command
}

fn run(folder: &Path, config: &str, out: &str) -> Output {
    start(folder, config, out).output().unwrap()
}

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn candidates(folder: &Path, rows: &[&[&str]]) -> String {
    let row = |(at, responses): (usize, &&[&str])| {
        let responses: Vec<Value> =
            responses.iter().map(|text| json!({"text": text, "maker": "m"})).collect();
        format!("{}\n", json!({"id": format!("p{at}"), "prompt": "Why?", "responses": responses}))
    };
    let file = folder.join("candidates.jsonl");
    fs::write(&file, rows.iter().enumerate().map(row).collect::<String>()).unwrap();
    format!("[data]\nfile = '{}'\n", file.display())
}

#[test]
fn lists_are_labelled_with_ties_and_missing_ones_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let asked = Questions::default();
    let data = candidates(
        folder,
        &[
            &["Since it is.", "So.", "Because."],
            &["Alone.", "Alone."],
            &["It declines.", "No."],
            &["Yes", "But"],
        ],
    );
    let config = format!("questions = 'lists'\n{data}{}", judge(&asked));
    let said = succeeded(&run(folder, &config, "labels.jsonl"));
    // Three pairs of the first prompt, two with a winner; one of the last, a tie of places.
    assert!(said.contains("2 labels of 5 pairs, 2 ties; 2 of 4 lists without a label"), "{said}");
    assert!(said.contains("labels are estimates"), "{said}");
    // Seven questions of 52 tokens.
    assert!(said.contains("cost of all answers 0.000364\n"), "{said}");
    let found = rows(&folder.join("labels.jsonl"));
    let pair = |row: &Value| [row["chosen"].clone(), row["rejected"].clone()];
    assert_eq!(pair(&found[0]), [json!("So."), json!("Since it is.")]);
    assert_eq!(pair(&found[1]), [json!("So."), json!("Because.")]);
    for row in &found {
        assert_eq!((&row["probability"], &row["margin"]), (&json!(1.0), &json!(1.0)));
        assert_eq!((&row["order"], &row["estimate"]), (&json!("rotations"), &json!(true)));
        assert_eq!((&row["chosen_maker"], &row["labeller"]), (&json!("m"), &json!("brief judge")));
        assert!(row.get("verdicts").is_none(), "{row}");
        // Three questions, over two rows.
        assert!((row["cost"].as_f64().unwrap() - 78e-6).abs() < 1e-12, "{row}");
    }
    let lists = rows(&folder.join("labels.lists.jsonl"));
    assert_eq!(lists.len(), 2);
    assert_eq!(lists[0]["probabilities"], json!([0.0, 1.0, 0.0]));
    assert_eq!(lists[0]["responses"][1], json!({"text": "So.", "maker": "m"}));
    assert_eq!((&lists[0]["rotations"], &lists[1]["rotations"]), (&json!(3), &json!(2)));
    assert_eq!(lists[1]["probabilities"], json!([0.5, 0.5]));
    let missing = rows(&folder.join("labels.jsonl.missing"));
    assert_eq!((&missing[0]["id"], &missing[1]["id"]), (&json!("p1"), &json!("p2")));
    assert!(missing[0]["reason"].as_str().unwrap().contains("it has one response"), "{missing:?}");
    let why =
        "brief: the judge's answer should be one of `A` and `B`, but is: \"They are all fine.\"";
    assert_eq!(missing[1]["reason"], why);

    // Only what is missing is asked again: two rotations.
    fs::rename(folder.join("labels.jsonl"), folder.join("before.jsonl")).unwrap();
    succeeded(&run(folder, &config, "labels.jsonl"));
    for (question, times) in asked.lock().unwrap().iter() {
        let expected = if question.contains("declines") { 2 } else { 1 };
        assert_eq!(*times, expected, "{question}");
    }
    assert_eq!(asked.lock().unwrap().len(), 7);

    let explained = config.replace("reasks = 0", "reasks = 0\nanswer = 'explained'");
    let best = explained.replace("[data]\n", "[data]\npairing = 'best-and-worst'\n");
    succeeded(&run(folder, &best, "explained.jsonl"));
    let found = rows(&folder.join("explained.jsonl"));
    assert_eq!((found.len(), &found[0]["reason"]), (1, &json!("It is brief.")));
    // Of equally bad ones the last.
    assert_eq!(pair(&found[0]), [json!("So."), json!("Because.")]);

    for (config, says) in [
        (
            config.replace("[judge]\n", "[judge]\nlabels = ['1', '2']\n"),
            "`judge.labels` is 2 labels",
        ),
        (
            config.replace("[data]\n", "[data]\nbetter_maker = 'm'\n"),
            "`questions` is `lists` beside",
        ),
        (format!("lessons = 'text'\n{config}"), "`lessons` is given, and "),
        (format!("rotations = 2\n{}", config.replace("'lists'", "'pairs'")), "`rotations` is 2"),
        (
            config
                .replace("questions = 'lists'", "")
                .replace("[judge]\n", "[judge]\nlabels = ['1', '2', '3']\n"),
            "`labels` is 3 labels",
        ),
    ] {
        let said = refusal(&run(folder, &config, "no.jsonl"), 2);
        assert!(said.contains(says), "{says}: {said}");
    }
    fs::write(
        folder.join("candidates.jsonl"),
        format!("{}\n", json!({"prompt": "Why?", "chosen": "So.", "rejected": "No."})),
    )
    .unwrap();
    let said = refusal(&run(folder, &config, "no.jsonl"), 2);
    assert!(said.contains("`questions` is `lists` for the preference pairs of "), "{said}");
}

#[test]
fn a_killed_labelling_of_lists_asks_nothing_twice_and_a_budget_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let asked = Questions::default();
    let texts: Vec<[String; 3]> =
        (1..13).map(|n| [3 * n, n, 2 * n].map(|length| "a".repeat(length))).collect();
    let lists: Vec<Vec<&str>> =
        texts.iter().map(|list| list.iter().map(String::as_str).collect()).collect();
    let lists: Vec<&[&str]> = lists.iter().map(Vec::as_slice).collect();
    let config = format!("questions = 'lists'\n{}{}", candidates(folder, &lists), judge(&asked));
    let limited = config.replace("[judge.price]", "[judge.budget]\ntokens = 1400\n[judge.price]");
    let said = succeeded(&run(folder, &limited, "first.jsonl"));
    assert!(said.contains("the budget of 1400 tokens is used up"), "{said}");
    let count = || asked.lock().unwrap().values().sum::<usize>();
    assert!((10..36).contains(&count()), "{}", count());

    asked.lock().unwrap().clear();
    succeeded(&run(folder, &config, "whole.jsonl"));
    assert_eq!(count(), 36);
    asked.lock().unwrap().clear();
    let journal = folder.join("killed.jsonl.unordered");
    let mut child = start(folder, &config, "killed.jsonl")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = || fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    while lines() < 12 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if journal.exists() {
        succeeded(&run(folder, &config, "killed.jsonl"));
    }
    // One question may have been under way at the kill, and one answer half written.
    assert!((36..=38).contains(&count()), "{}", count());
    for file in ["jsonl", "lists.jsonl"] {
        let of = |name: &str| fs::read(folder.join(format!("{name}.{file}"))).unwrap();
        assert_eq!(of("killed"), of("whole"), "{file}");
    }
    let other = config.replace("questions = 'lists'", "questions = 'lists'\nrotations = 2");
    let said = succeeded(&run(folder, &other, "two.jsonl"));
    assert!(said.contains("12 lists"), "{said}");
    assert_eq!(rows(&folder.join("two.lists.jsonl"))[0]["rotations"], 2);
}

#[test]
fn a_judge_that_always_names_one_place_of_lists_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let url = chat_completions(|_| "B".to_owned());
    let config = format!(
        "questions = 'lists'\n{}[judge.api]\nkind = 'openai'\nmodel = 'stubborn'\nbase_url = '{url}'\n\
         api_key_env = 'TEST_KEY'\n[[facets]]\nfacet = 'honest'\n",
        candidates(folder, &[&["Yes.", "No.", "Perhaps."]])
    );
    let said = refusal(&run(folder, &config, "labels.jsonl"), 2);
    assert!(
        said.contains(
            "`stubborn` always prefers the response in place 2 of a list (facet `honest`)"
        ),
        "{said}"
    );
}
