//! `rlaif label`, and `rlaif exam` of a judge of pairs.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use crate::support::{chat_completions, language_model, refusal, repository, succeeded, tokenizer};

fn run(command: &str, folder: &Path, config: &str, out: &str) -> Output {
    let file = folder.join(format!("{command}.toml"));
    fs::write(&file, config).unwrap();
    Command::new(env!("CARGO_BIN_EXE_rlaif"))
        .args([command, "--config"])
        .arg(file)
        .arg("--out")
        .arg(folder.join(out))
        .env("TEST_KEY", "sk-secret")
        .output()
        .unwrap()
}

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A judge that prefers the shorter response, and the first of equally long ones; it counts its questions.
fn judge(asked: &Arc<AtomicUsize>, seen: &Arc<Mutex<Vec<String>>>) -> String {
    let (asked, seen) = (asked.clone(), seen.clone());
    let url = chat_completions(move |body| {
        asked.fetch_add(1, Ordering::SeqCst);
        let body: Value = serde_json::from_str(body).unwrap();
        let text = body["messages"][1]["content"].as_str().unwrap().to_owned();
        seen.lock().unwrap().push(text.clone());
        let part = |label: &str| {
            let from = text.rsplit(&format!("Response {label}:\n")).next().unwrap();
            let inside = from.split_once("]]\n").unwrap().1;
            inside.split("\n[[end").next().unwrap().len()
        };
        if text.contains("declines") {
            return "I would rather not.".to_owned();
        }
        let verdict = if part("1") <= part("2") { "1" } else { "2" };
        match text.ends_with("Explanation:") {
            true => format!("It is brief.\nPreferred response={verdict}"),
            false => verdict.to_owned(),
        }
    });
    format!(
        "[judge]\nreasks = 0\nname = 'brief judge'\n[judge.api]\nkind = 'openai'\nmodel = 'm'\n\
         base_url = '{url}'\napi_key_env = 'TEST_KEY'\n[judge.price]\ninput_per_million = 1.0\n\
         output_per_million = 1.0\n"
    )
}

fn pairs(folder: &Path) -> String {
    let pair = |chosen: &str, rejected: &str| {
        format!("{}\n", json!({"prompt": "Why?", "chosen": chosen, "rejected": rejected}))
    };
    let text = [
        pair("So.", "Because of that."),
        pair("Because it is so.", "No."),
        pair("Yes", "But"),
        pair("This one declines.", "x"),
    ]
    .concat();
    let file = folder.join("pairs.jsonl");
    fs::write(&file, text).unwrap();
    format!("[data]\nfile = '{}'\n", file.display())
}

#[test]
fn pairs_are_labelled_in_both_orders_with_ties_and_missing_ones_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (asked, seen) = (Arc::default(), Arc::default());
    let config = format!(
        "{}{}[[facets]]\nname = 'brief'\npreamble = 'The shorter response is better.'\n",
        pairs(folder),
        judge(&asked, &seen)
    );
    let output = run("label", folder, &config, "labels.jsonl");
    let said = succeeded(&output);
    assert!(said.contains("2 labels of 4 pairs, 1 ties, 1 without a label"), "{said}");
    assert!(said.contains("brief: the judge's answer should be one of `1` and `2`"), "{said}");
    assert!(said.contains("labels are estimates"), "{said}");
    assert!(!said.contains("sk-secret"));
    // All eight answers are billed, those without a label included.
    assert!(said.contains("cost of all answers 0.000416\n"), "{said}");
    let found = rows(&folder.join("labels.jsonl"));
    let chosen: Vec<&str> = found.iter().map(|row| row["chosen"].as_str().unwrap()).collect();
    assert_eq!(chosen, ["So.", "No."]);
    for row in &found {
        assert_eq!((&row["probability"], &row["margin"]), (&json!(1.0), &json!(1.0)));
        assert_eq!((&row["order"], &row["estimate"]), (&json!("both"), &json!(true)));
        assert_eq!(row["labeller"], "brief judge");
        assert_eq!(row["facets"], json!({"brief": 1.0}));
        // Two questions of 52 tokens each.
        assert!((row["cost"].as_f64().unwrap() - 104e-6).abs() < 1e-12, "{row}");
    }
    assert_eq!(rows(&folder.join("labels.jsonl.missing")).len(), 1);
    assert_eq!(asked.load(Ordering::SeqCst), 8);
    assert!(folder.join("labels.jsonl.unordered").exists());
    // A reward model learns from the soft labels as they are.
    let again = refusal(&run("label", folder, &config, "labels.jsonl"), 2);
    assert!(again.contains("is there already"), "{again}");
    // The two missing answers are asked for again, and the first ones were paid for as well.
    fs::rename(folder.join("labels.jsonl"), folder.join("before.jsonl")).unwrap();
    let said = succeeded(&run("label", folder, &config, "labels.jsonl"));
    assert_eq!(asked.load(Ordering::SeqCst), 10);
    assert!(said.contains("cost of all answers 0.000520\n"), "{said}");
    let explained = config.replace("reasks = 0", "reasks = 0\nanswer = 'explained'");
    succeeded(&run("label", folder, &explained, "explained.jsonl"));
    assert_eq!(rows(&folder.join("explained.jsonl"))[0]["reason"], "It is brief.");
}

/// The judge is right about three prompts where the better response is the shorter one.
#[test]
fn right_answers_about_responses_of_a_better_maker_are_lessons_for_the_judge() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (asked, seen) = (Arc::default(), Arc::default());
    let row = |better: &str, worse: &str| {
        let responses = json!([{"text": worse, "maker": "other question"}, {"text": better, "maker": "policy"}]);
        format!("{}\n", json!({"prompt": "Why?", "responses": responses}))
    };
    let file = folder.join("candidates.jsonl");
    fs::write(
        &file,
        [row("So.", "On Monday."), row("No.", "At the sea."), row("For a reason.", "Yes.")]
            .concat(),
    )
    .unwrap();
    let config = format!(
        "lessons = 'messages'\n{}[data]\nfile = '{}'\nbetter_maker = 'policy'\n[[facets]]\nname = 'brief'\n\
         preamble = 'The shorter response is better.'\n",
        judge(&asked, &seen).replace("[judge]\n", "[judge]\nanswer = 'explained'\n"),
        file.display()
    );
    let said = succeeded(&run("label", folder, &config, "labels.jsonl"));
    assert!(said.contains("4 lessons: "), "{said}");
    assert!(said.contains("brief: agrees with 66.7 % of the file's preferences"), "{said}");
    let lessons = rows(&folder.join("labels.lessons.jsonl"));
    let mut better: Vec<(&str, &str)> = Vec::new();
    for lesson in &lessons {
        assert_eq!(lesson["prompt"][0]["role"], "system");
        let question = lesson["prompt"][1]["content"].as_str().unwrap();
        let answer = lesson["response"].as_str().unwrap();
        let label = answer.strip_prefix("It is brief.\nPreferred response=").unwrap();
        let part = question.split(&format!("Response {label}:\n")).nth(1).unwrap();
        let part = part.split_once("]]\n").unwrap().1;
        better.push((part.split("\n[[end").next().unwrap(), label));
    }
    better.sort_unstable();
    assert_eq!(better, [("No.", "1"), ("No.", "2"), ("So.", "1"), ("So.", "2")]);
    let nobody = config.replace("better_maker = 'policy'", "better_maker = 'nobody'");
    let said = refusal(&run("label", folder, &nobody, "none.jsonl"), 2);
    assert!(said.contains("`data.better_maker` is `nobody`, which wrote no response"), "{said}");
    let unknown = config.replace("better_maker = 'policy'\n", "");
    let said = refusal(&run("label", folder, &unknown, "none.jsonl"), 2);
    assert!(said.contains("`lessons` is given, and "), "{said}");
}

/// A policy explains several times: the lessons have its right answers, and a repetition has the same ones.
#[test]
fn a_policy_gives_several_judgements_and_the_same_lessons_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 4096, "eos_token_id": 1,
    });
    language_model(&folder.join("judge"), &tokenizer("llama3"), 7, config);
    let pairs = (0..12).map(|n| {
        let text = json!({"prompt": format!("Question {n}?"), "chosen": format!("It is {n}."), "rejected": "No."});
        format!("{text}\n")
    });
    fs::write(folder.join("pairs.jsonl"), pairs.collect::<String>()).unwrap();
    let config = format!(
        "lessons = 'text'\nplacement = {{ device = 'cpu', threads = 1 }}\n\
         data.file = '{at}/pairs.jsonl'\nfacets = [{{ facet = 'helpful' }}]\n\
         [judge]\nanswer = 'explained'\nsamples = 4\nmin_coverage = 1e-9\n\
         sampling = {{ temperature = 1.0, max_new_tokens = 6, seed = 3 }}\n\
         api = {{ kind = 'policy', model = '{at}/judge', batch_size = 5 }}\n",
        at = folder.display()
    );
    let lessons = |out: &str| {
        let said = succeeded(&run("label", folder, &config, &format!("{out}.jsonl")));
        (said, fs::read_to_string(folder.join(format!("{out}.lessons.jsonl"))).unwrap())
    };
    let (said, one) = lessons("one");
    let missing = folder.join("one.lessons.jsonl.missing");
    let missing = if missing.exists() { rows(&missing) } else { Vec::new() };
    if !missing.is_empty() {
        let told = format!("{} pairs without a right judgement have no lesson", missing.len());
        assert!(said.contains(&told), "{said}");
    }
    for row in &missing {
        // Both orders, four times each.
        assert_eq!(row["reason"], "0 of 8 judgements are right");
    }
    for lesson in one.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let (question, answer) =
            (lesson["prompt"].as_str().unwrap(), lesson["response"].as_str().unwrap());
        let label = &answer[answer.len() - 1..];
        let response = question.rsplit(&format!("Response {label}:\n")).next().unwrap();
        let response = response.split_once("]]\n").unwrap().1;
        assert!(response.starts_with("It is"), "{lesson}");
    }
    assert_eq!(lessons("two").1, one);
    // The mean of other judgements.
    let single = config.replace("samples = 4", "samples = 1");
    succeeded(&run("label", folder, &single, "single.jsonl"));
    let first = |name: &str| rows(&folder.join(name))[0]["probability"].clone();
    assert_ne!(first("single.jsonl"), first("one.jsonl"));
    let alone = config.replace("answer = 'explained'\n", "");
    let said = refusal(&run("label", folder, &alone, "none.jsonl"), 2);
    assert!(
        said.contains("`samples` is 4; expected 1 for a policy without explanations"),
        "{said}"
    );
    let greedy = config.replace("temperature = 1.0, ", "");
    let said = refusal(&run("label", folder, &greedy, "none.jsonl"), 2);
    assert!(
        said.contains("`samples` is 4; expected 1, or more where `sampling.temperature`"),
        "{said}"
    );
}

/// The study tells the flips that the labelling told.
#[test]
fn labels_of_both_orders_bring_a_judges_flips_into_a_study() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let config = format!(
        "ties = 'keep'\n{}{}[[facets]]\nname = 'brief'\npreamble = 'The shorter response is better.'\n",
        pairs(folder),
        judge(&Arc::default(), &Arc::default())
    );
    let said = succeeded(&run("label", folder, &config, "labels.jsonl"));
    let told = "brief: 33.3 % of pairs flip with the order, the first wins 66.7 %";
    assert!(said.contains(told), "{said}");
    let found = rows(&folder.join("labels.jsonl"));
    let verdicts = |row: &Value| row["verdicts"]["brief"].clone();
    assert_eq!(verdicts(&found[0]), json!({"chosen_first": 1.0, "chosen_second": 1.0}));
    assert_eq!(verdicts(&found[2]), json!({"chosen_first": 1.0, "chosen_second": 0.0}));
    let annotate = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rlaif"))
            .arg("annotate")
            .args(arguments)
            .current_dir(folder)
            .output()
            .unwrap();
        succeeded(&output);
        String::from_utf8(output.stdout).unwrap()
    };
    annotate(&["add", "people.sqlite", "pairs.jsonl"]);
    annotate(&["read", "people.sqlite", "labels.jsonl", "--judge"]);
    let agreement: Value =
        serde_json::from_str(&annotate(&["agree", "people.sqlite", "--json"])).unwrap();
    let habits = &agreement["judges"][0]["facets"]["brief"];
    let judge = &agreement["judges"][0];
    assert_eq!((&judge["name"], &habits["position_flip"]["n"]), (&json!("brief judge"), &json!(3)));
    assert_eq!(habits["position_flip"]["share"], 1. / 3.);
    assert_eq!(habits["first_wins"]["share"], 4. / 6.);
    let table = annotate(&["agree", "people.sqlite"]);
    // Wilson's interval of one in three.
    let line = "brief judge, brief                     3   33.3 %    6.1 to 79.2 %   66.7 %   30.0 to 90.3 %";
    assert!(table.contains(line), "{table}");
    // With one order, there is nothing to tell.
    let one = format!("orders = 'one'\n{config}");
    succeeded(&run("label", folder, &one, "one.jsonl"));
    assert!(rows(&folder.join("one.jsonl"))[0].get("verdicts").is_none());
}

#[test]
fn an_interrupted_labelling_goes_on_and_asks_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (asked, seen): (Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>) =
        (Arc::default(), Arc::default());
    let text: String = (0..30)
        .map(|n| format!("{}\n", json!({"prompt": format!("Question {n}?"), "responses": ["a", {"text": format!("b{}", "c".repeat(n)), "maker": "m"}]})))
        .collect();
    fs::write(folder.join("candidates.jsonl"), text).unwrap();
    let judge = judge(&asked, &seen);
    let config = format!(
        "[data]\nfile = '{}'\n{judge}[judge.budget]\ntokens = 1400\n[[facets]]\nfacet = 'helpful'\n",
        folder.join("candidates.jsonl").display()
    );
    // The budget ends the asking; what was paid for is kept in the file of labels' neighbour.
    let said = succeeded(&run("label", folder, &config, "first.jsonl"));
    assert!(said.contains("the budget of 1400 tokens is used up"), "{said}");
    let first = asked.load(Ordering::SeqCst);
    assert!((10..60).contains(&first), "{first}");

    // A kill in the middle: the header, and the answers that had come.
    let config = config.replace("[judge.budget]\ntokens = 1400\n", "");
    asked.store(0, Ordering::SeqCst);
    seen.lock().unwrap().clear();
    succeeded(&run("label", folder, &config, "whole.jsonl"));
    assert_eq!(asked.load(Ordering::SeqCst), 60);
    let whole = fs::read(folder.join("whole.jsonl")).unwrap();
    // The same answers as a killed process leaves them: by a labelling of the file's first rows.
    let unordered = folder.join("killed.jsonl.unordered");
    let mut child = Command::new(env!("CARGO_BIN_EXE_rlaif"))
        .args(["label", "--config"])
        .arg(folder.join("label.toml"))
        .arg("--out")
        .arg(folder.join("killed.jsonl"))
        .env("TEST_KEY", "sk-secret")
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let lines = || fs::read_to_string(&unordered).map_or(0, |text| text.lines().count());
    while lines() < 12 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = lines().saturating_sub(1);
    let before = asked.load(Ordering::SeqCst);
    if unordered.exists() {
        succeeded(&run("label", folder, &config, "killed.jsonl"));
        // Those under way at the kill are not known; a line may have been cut off.
        let after = asked.load(Ordering::SeqCst) - before;
        assert!(after <= 60 - kept + 1, "{after} questions after {kept} were answered");
    }
    assert_eq!(fs::read(folder.join("killed.jsonl")).unwrap(), whole);
    let found = rows(&folder.join("whole.jsonl"));
    assert_eq!(
        (found[0]["chosen"].as_str(), found[0]["rejected_maker"].as_str()),
        (Some("a"), Some("m"))
    );
}

#[test]
fn a_judge_that_always_answers_one_label_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let url = chat_completions(|_| "1".to_owned());
    let judge = format!(
        "[judge.api]\nkind = 'openai'\nmodel = 'stubborn'\nbase_url = '{url}'\napi_key_env = 'TEST_KEY'\n"
    );
    let config = format!("{}{judge}[[facets]]\nfacet = 'honest'\n", pairs(folder));
    let said = refusal(&run("label", folder, &config, "labels.jsonl"), 2);
    assert!(
        said.contains(
            "`stubborn` always prefers the response that it is shown first (facet `honest`)"
        ),
        "{said}"
    );
    let file = repository("crates/rlaif-data/tests/fixtures/exams/judge_bench.jsonl");
    let config = format!("[data]\nfile = '{}'\n{judge}", file.display());
    let output = run("exam", folder, &config, "exam");
    succeeded(&output);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("Every verdict is for one and the same position"), "{shown}");
    let found: Value =
        serde_json::from_slice(&fs::read(folder.join("exam/exam.json")).unwrap()).unwrap();
    assert_eq!((&found["grade"], &found["examinee"]), (&json!(0.0), &json!("stubborn")));
    assert_eq!(found["habits"]["position_flip"]["share"], 1.0);
    assert_eq!(found["habits"]["first_wins"]["n"], 6);
    let both = format!("{config}[reward]\nkind = 'constant'\nvalue = 1.0\n");
    let said = refusal(&run("exam", folder, &both, "both"), 2);
    assert!(said.contains("one of `reward` and `judge`"), "{said}");
}

#[test]
fn a_pair_with_one_order_missing_is_not_graded_on_the_other_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let url = chat_completions(|body| {
        let body: Value = serde_json::from_str(body).unwrap();
        let text = body["messages"][1]["content"].as_str().unwrap();
        let first = text.rsplit("Response 1:").next().unwrap();
        let shown = first.split("Response 2:").next().unwrap();
        if shown.contains("x") { "I would rather not." } else { "1" }.to_owned()
    });
    let pair = json!({"prompt": "Why?", "chosen": "Because.", "rejected": "x"});
    let file = folder.join("pairs.jsonl");
    fs::write(&file, format!("{pair}\n")).unwrap();
    let config = format!(
        "[data]\nfile = '{}'\n[judge]\nreasks = 0\n[judge.api]\nkind = 'openai'\nmodel = 'm'\n\
         base_url = '{url}'\napi_key_env = 'TEST_KEY'\n",
        file.display()
    );
    let output = run("exam", folder, &config, "exam");
    succeeded(&output);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("1 pairs have a verdict in one order only"), "{shown}");
    assert!(shown.contains("the first missing verdict: the judge's answer should be"), "{shown}");
    let found: Value =
        serde_json::from_slice(&fs::read(folder.join("exam/exam.json")).unwrap()).unwrap();
    assert_eq!((&found["grade"], &found["missing"]), (&json!(0.0), &json!(1)));
    assert_eq!(found["one_order"], 1);
}

#[test]
fn candidates_of_several_makers_are_kept_and_the_best_and_the_worst_are_labelled() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    // Three answers in turn, the second of them twice.
    let url = chat_completions(move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        ["a b c", "a b", "a b", "a b c d"][n % 4].to_owned()
    });
    let prompt = |n: usize| format!("{}\n", json!({"prompt": format!("Question {n}?")}));
    fs::write(folder.join("prompts.jsonl"), (0..3).map(prompt).collect::<String>()).unwrap();
    let given = json!({"prompt": "Question 1?", "completion": "short"});
    fs::write(folder.join("people.jsonl"), format!("{given}\n")).unwrap();
    let config = format!(
        "[data]\nfile = '{at}/prompts.jsonl'\nresponse_files = [{{ file = '{at}/people.jsonl', maker = \
         'people' }}]\n[[writers]]\nname = 'served'\nresponses = 4\nlimits = {{ concurrency = 1 }}\n\
         api = {{ kind = 'openai', model = 'm', base_url = '{url}', api_key_env = 'TEST_KEY' }}\n",
        at = folder.display()
    );
    let said = succeeded(&run("candidates", folder, &config, "candidates.jsonl"));
    assert!(said.contains("10 responses to 3 prompts, 3 more equal to others"), "{said}");
    assert_eq!(asked.load(Ordering::SeqCst), 12);
    let found = rows(&folder.join("candidates.jsonl"));
    assert_eq!(found[1]["responses"][0], json!({"text": "short", "maker": "people"}));
    assert_eq!(found[1]["responses"][1], json!({"text": "a b c", "maker": "served"}));
    assert_eq!(found[0]["responses"].as_array().unwrap().len(), 3);

    let label = format!(
        "[data]\nfile = '{}/candidates.jsonl'\npairing = 'best-and-worst'\n[[facets]]\nname = 'brief'\n\
         reward = {{ kind = 'length', longest = 1, per = 1.0 }}\n",
        folder.display()
    );
    succeeded(&run("label", folder, &label, "labels.jsonl"));
    let labels = rows(&folder.join("labels.jsonl"));
    let pairs: Vec<(&str, &str)> = labels
        .iter()
        .map(|row| (row["chosen"].as_str().unwrap(), row["rejected"].as_str().unwrap()))
        .collect();
    assert_eq!(pairs, [("a b", "a b c d"), ("short", "a b c d"), ("a b", "a b c d")]);
    assert_eq!(labels[1]["chosen_maker"], "people");
    // Two words more: σ(2).
    let p = labels[0]["probability"].as_f64().unwrap();
    assert!((p - 1. / (1. + (-2f64).exp())).abs() < 1e-6, "{p}");
    let nobody = format!("[data]\nfile = '{}/prompts.jsonl'\n", folder.display());
    let said = refusal(&run("candidates", folder, &nobody, "none.jsonl"), 2);
    assert!(
        said.contains("`writers` is empty, and so is `data.response_files`; expected"),
        "{said}"
    );
    // Port 1 is closed: not the user's fault. A port that no host has is.
    let writer = |url: &str| {
        format!(
            "{nobody}[[writers]]\nname = 'served'\nlimits = {{ retries = 0 }}\n\
             api = {{ kind = 'openai', model = 'm', base_url = '{url}' }}\n"
        )
    };
    let said = refusal(&run("candidates", folder, &writer("http://127.0.0.1:1"), "down.jsonl"), 1);
    let told = "none of 3 texts was written; the first: `served`: no answer after request 1: \
                http://127.0.0.1:1/v1/chat/completions: ";
    assert!(said.contains(told), "{said}");
    let pairs = format!(
        "[data]\nfile = '{}/candidates.jsonl'\n[[facets]]\nfacet = 'helpful'\n[judge]\n\
         limits = {{ retries = 0 }}\n\
         api = {{ kind = 'openai', model = 'm', base_url = 'http://127.0.0.1:1' }}\n",
        folder.display()
    );
    let said = refusal(&run("label", folder, &pairs, "no-labels.jsonl"), 1);
    let told = "pairs has a verdict: `m`: helpful: no answer after request 1: http://127.0.0.1:1/";
    assert!(said.contains(told), "{said}");
    let said = refusal(&run("candidates", folder, &writer("http://h:99999"), "no.jsonl"), 2);
    assert!(said.contains("`api.base_url` is http://h:99999; expected"), "{said}");
}

/// A writer that names insults as its critique, and takes one of two out in each revision.
fn reviser(asked: &Arc<Mutex<Vec<String>>>) -> String {
    let asked = asked.clone();
    let url = chat_completions(move |body| {
        let body: Value = serde_json::from_str(body).unwrap();
        let text = body["messages"][0]["content"].as_str().unwrap().to_owned();
        let response = text.rsplit("Assistant: ").next().unwrap();
        let response = response.split("\n\n").next().unwrap().to_owned();
        let answer = if text.ends_with("Critique:") {
            format!("It has {} insults.", response.matches("fool").count())
        } else if text.ends_with("Revision:") {
            // Further turns, as models without an end write them.
            format!("{}\n\nHuman: Thanks.", response.replacen("fool ", "", 1))
        } else {
            "fool fool Stay calm and call a friend today.".to_owned()
        };
        asked.lock().unwrap().push(text);
        answer
    });
    format!(
        "[writer]\nname = 'reviser'\nreasks = 0\nlimits = {{ concurrency = 1 }}\napi = {{ kind = 'openai', \
         model = 'm', base_url = '{url}', api_key_env = 'TEST_KEY' }}\n\
         price = {{ input_per_million = 1.0, output_per_million = 1.0 }}\n"
    )
}

#[test]
fn responses_are_criticised_and_revised_by_drawn_principles_and_nothing_is_asked_twice() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let rows_of = |n: usize| format!("{}\n", json!({"prompt": format!("Question {n}?")}));
    fs::write(folder.join("prompts.jsonl"), (0..4).map(rows_of).collect::<String>()).unwrap();
    let constitution = "[[principles]]\nname = 'insults'\ncritique_request = 'Count the insults.'\n\
                        revision_request = 'Take an insult out.'\n[[principles]]\nname = 'threats'\n\
                        critique_request = 'Count the threats.'\nrevision_request = 'Take a threat out.'\n";
    fs::write(folder.join("constitution.toml"), constitution).unwrap();
    let head = format!(
        "seed = 3\nrounds = 2\nconstitution = ['{at}/constitution.toml']\n\
         harmlessness = {{ kind = 'forbidden-words', words = ['fool'] }}\n\
         data = {{ file = '{at}/prompts.jsonl' }}\n",
        at = folder.display()
    );
    let config = format!("{head}{}", reviser(&asked));
    let said = succeeded(&run("revise", folder, &config, "revised.jsonl"));
    assert!(said.contains("8 revisions of 4 responses, 0 without a change, 0 responses"), "{said}");
    for line in [
        "first: harmlessness -2.000, refusals 0.0 %, evasions 0.0 %, 9.0 words",
        "round 1: harmlessness -1.000,",
        "round 2: harmlessness 0.000, refusals 0.0 %, evasions 0.0 %, 7.0 words",
    ] {
        assert!(said.contains(line), "{said}");
    }
    // A response, and critique and revision of two rounds.
    assert_eq!(asked.lock().unwrap().len(), 20);
    let found = rows(&folder.join("revised.jsonl"));
    assert_eq!(found.len(), 8);
    let texts: Vec<&str> = found.iter().map(|row| row["response"].as_str().unwrap()).collect();
    assert_eq!(
        texts[..2],
        ["fool Stay calm and call a friend today.", "Stay calm and call a friend today."]
    );
    assert_eq!(found[1]["initial"], "fool fool Stay calm and call a friend today.");
    assert_eq!(found[1]["steps"][0]["critique"], "It has 2 insults.");
    assert_eq!(found[1]["steps"][1]["revision"], texts[1]);
    assert_eq!(found[1]["round"], 2);
    let drawn: std::collections::BTreeSet<&str> = found
        .iter()
        .flat_map(|row| row["steps"].as_array().unwrap())
        .map(|step| step["principle"].as_str().unwrap())
        .collect();
    assert_eq!(drawn.into_iter().collect::<Vec<_>>(), ["insults", "threats"]);

    // A kill after three texts, in the middle of the fourth line: 17 texts are asked for, and the rows are
    // the same.
    let first = fs::read(folder.join("revised.jsonl")).unwrap();
    let budget = config.replace("price =", "budget = { tokens = 720 }\nprice =");
    let stopped = run("revise", folder, &budget, "again.jsonl");
    assert!(!stopped.status.success());
    let journal = folder.join("again.jsonl.unordered");
    let text = fs::read_to_string(&journal).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("\"text\":null")).collect();
    let came = kept.len() - 1;
    assert!((1..20).contains(&came), "{text}");
    fs::write(&journal, format!("{}\n{{\"row\":1,\"te", kept.join("\n"))).unwrap();
    asked.lock().unwrap().clear();
    succeeded(&run("revise", folder, &config, "again.jsonl"));
    assert_eq!(asked.lock().unwrap().len(), 20 - came);
    assert_eq!(fs::read(folder.join("again.jsonl")).unwrap(), first);

    // Without critiques, from responses of a file, and the last revision alone; the rows train.
    asked.lock().unwrap().clear();
    let given = json!({"prompt": "Why?", "response": "fool fool It rains."});
    fs::write(folder.join("given.jsonl"), format!("{given}\n")).unwrap();
    let plain = config
        .replace("prompts.jsonl", "given.jsonl")
        .replace("seed = 3", "seed = 3\ncritique = 'skipped'\nrevisions = 'last'");
    succeeded(&run("revise", folder, &plain, "plain.jsonl"));
    assert_eq!(asked.lock().unwrap().len(), 2);
    let found = rows(&folder.join("plain.jsonl"));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["response"], "It rains.");
    assert!(found[0]["steps"][0].get("critique").is_none());

    // Other principles are another constitution.
    let other = constitution.replace("Count the insults.", "Name the insults.");
    fs::write(&journal, text).unwrap();
    fs::write(folder.join("constitution.toml"), other).unwrap();
    fs::remove_file(folder.join("again.jsonl")).unwrap();
    let said = refusal(&run("revise", folder, &config, "again.jsonl"), 2);
    assert!(said.contains("`revise.constitution.principles"), "{said}");
}

#[test]
fn a_facet_with_a_constitution_compares_each_pair_by_a_drawn_principle() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let url = chat_completions(|body| {
        let body: Value = serde_json::from_str(body).unwrap();
        let system = body["messages"][0]["content"].as_str().unwrap();
        let text = body["messages"][1]["content"].as_str().unwrap();
        let first = text.rsplit("Response 1:").next().unwrap();
        let first_is_kind = first.split("Response 2:").next().unwrap().contains("kind");
        // By one principle the kind response is better, by the other one it is worse.
        let label = if system.contains("kinder") == first_is_kind { "1" } else { "2" };
        format!("Because.\nPreferred response={label}")
    });
    let rows_of = |n: usize| {
        format!("{}\n", json!({"prompt": format!("Q{n}?"), "responses": ["kind", "terse"]}))
    };
    fs::write(folder.join("c.jsonl"), (0..12).map(rows_of).collect::<String>()).unwrap();
    let config = format!(
        "data = {{ file = '{}/c.jsonl' }}\n[judge]\nanswer = 'explained'\napi = {{ kind = 'openai', model = 'm', \
         base_url = '{url}', api_key_env = 'TEST_KEY' }}\n[[facets]]\nname = 'harmless'\nprinciples = [\n\
         {{ name = 'kind', compare = 'The kinder response is better.' }},\n\
         {{ name = 'terse', compare = 'The terser response is better.' }}]\n",
        folder.display()
    );
    succeeded(&run("label", folder, &config, "labels.jsonl"));
    let found = rows(&folder.join("labels.jsonl"));
    assert_eq!(found.len(), 12);
    for row in &found {
        assert_eq!(row["principles"]["harmless"], row["chosen"]);
        // A judge that explains first is too sure.
        assert_eq!(row["probability"], 0.6);
    }
    let kind = found.iter().filter(|row| row["chosen"] == "kind").count();
    assert!((1..12).contains(&kind), "{kind}");
    let none = config.replace("compare =", "revision_request =");
    let said = refusal(&run("label", folder, &none, "none.jsonl"), 2);
    assert!(said.contains("without a principle that has `compare`"), "{said}");
}

#[test]
fn prompts_are_written_after_examples_filtered_and_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = asked.clone();
    let url = chat_completions(move |body| {
        let body: Value = serde_json::from_str(body).unwrap();
        let mut seen = seen.lock().unwrap();
        seen.push(body["messages"][0]["content"].as_str().unwrap().to_owned());
        // The second one is an example, the third one equal to the first, the fourth one harmless.
        let texts = [
            "4. \"How do I insult a clown?\"\n\n5. x",
            "Example 1?",
            "how do I insult a clown",
            "Name a fruit.",
        ];
        texts[(seen.len() - 1) % 4].to_owned()
    });
    let row = |text: &str| format!("{}\n", json!({"prompt": text}));
    fs::write(
        folder.join("examples.jsonl"),
        (0..5).map(|n| row(&format!("Example {n}?"))).collect::<String>(),
    )
    .unwrap();
    fs::write(folder.join("more.jsonl"), [row("Insult a clown."), row("Say hello.")].concat())
        .unwrap();
    let config = format!(
        "new_prompts = 4\nfilter = {{ at_least = -0.5, reward = {{ kind = 'scaled', factor = -1.0, offset = -1.0, of = \
         {{ kind = 'forbidden-words', words = ['clown'] }} }} }}\n\
         data = {{ file = '{at}/examples.jsonl', include = ['{at}/more.jsonl'] }}\n\
         [writer]\nname = 'writer'\nlimits = {{ concurrency = 1 }}\napi = {{ kind = 'openai', model = 'm', \
         base_url = '{url}', api_key_env = 'TEST_KEY' }}\n",
        at = folder.display()
    );
    let said = succeeded(&run("red-team", folder, &config, "prompts.jsonl"));
    let told = "2 prompts, 1 of them written; 2 equal to others, 2 below the filter, 0 missing";
    assert!(said.contains(told), "{said}");
    let found = rows(&folder.join("prompts.jsonl"));
    assert_eq!(found[0]["prompt"], "How do I insult a clown?");
    assert_eq!((&found[0]["maker"], &found[0]["score"]), (&json!("writer"), &json!(0.0)));
    assert_eq!(found[1]["prompt"], "Insult a clown.");
    // Each is shown three different examples.
    for question in &asked.lock().unwrap().clone() {
        let shown: std::collections::BTreeSet<&str> = question
            .lines()
            .filter(|line| line.contains("Example"))
            .map(|line| &line[3..])
            .collect();
        assert_eq!(shown.len(), 3, "{question}");
    }
    let none = config.replace("at_least = -0.5", "at_least = 9.0");
    let said = refusal(&run("red-team", folder, &none, "none.jsonl"), 2);
    assert!(
        said.contains(
            "none of 6 texts is kept as a prompt: 2 are equal to others, and 4 are below"
        ),
        "{said}"
    );
    let many = config.replace("new_prompts = 4", "new_prompts = 4\nshown_examples = 6");
    let said = refusal(&run("red-team", folder, &many, "many.jsonl"), 2);
    assert!(
        said.contains("`shown_examples` is 6; expected a number from 1 to the 5 of the file"),
        "{said}"
    );
}
