//! `rlaif annotate`.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::support::{refusal, rows, succeeded};

fn annotate(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rlaif"))
        .arg("annotate")
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn write_rows(path: &Path, rows: &[Value]) {
    fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
}

fn read_rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The commands of `docs/people.md`, in their order.
#[test]
fn answers_of_three_tools_become_agreement_and_labels() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let candidate = |n: usize| {
        json!({"id": format!("q{n}"), "prompt": format!("Why {n}?"), "responses": [
            {"text": "Because.", "maker": "small"}, {"text": "No.", "maker": "large"}]})
    };
    write_rows(&folder.join("candidates.jsonl"), &(0..4).map(candidate).collect::<Vec<_>>());
    let known = json!({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"});
    write_rows(&folder.join("known.jsonl"), &[known]);
    let options = "add people.sqlite candidates.jsonl --overlap 0.5 --facets helpful,harmless";
    let added = annotate(folder, &options.split(' ').collect::<Vec<_>>());
    succeeded(&added);
    assert_eq!(String::from_utf8_lossy(&added.stdout), "4 items added; the study has 4\n");
    let known = annotate(folder, &["add", "people.sqlite", "known.jsonl", "--known"]);
    succeeded(&known);
    assert_eq!(String::from_utf8_lossy(&known.stdout), "1 item added; the study has 5\n");
    let people = rows(&annotate(folder, &["people", "people.sqlite", "ann", "bob"]));
    assert_eq!(people.iter().map(|who| &who["name"]).collect::<Vec<_>>(), ["ann", "bob"]);
    assert_ne!(people[0]["token"], people[1]["token"]);

    // Label Studio shows the responses of one item in the other order, and has an item of its own.
    let task = |n: usize, texts: [&str; 2], by: &str, side: &str| {
        json!({"id": n, "data": {"prompt": format!("Why {n}?"), "answer1": texts[0], "answer2": texts[1]},
            "annotations": [{"completed_by": {"email": by}, "lead_time": 4.0, "result": [
                {"from_name": "pw", "type": "pairwise", "value": {"selected": side}}]}]})
    };
    let tasks = json!([
        task(0, ["Because.", "No."], "cy", "left"),
        task(1, ["No.", "Because."], "cy", "right"),
        task(2, ["Because.", "No."], "cy", "right"),
        task(9, ["Yes.", "No."], "cy", "left"),
    ]);
    fs::write(folder.join("label-studio.json"), tasks.to_string()).unwrap();
    let read = annotate(folder, &["read", "people.sqlite", "label-studio.json"]);
    succeeded(&read);
    assert!(String::from_utf8_lossy(&read.stdout).starts_with("4 answers added, 1 new items"));
    let manifest = json!({"source": "Why 2?", "responses": ["Because.", "No."], "job": 0,
        "job-metadata": {"class-name": "first", "type": "groundtruth/text-classification"}});
    write_rows(&folder.join("output.manifest"), &[manifest]);
    succeeded(&annotate(folder, &["read", "people.sqlite", "output.manifest"]));
    let label = |n: usize, p: f64| {
        json!({"prompt": format!("Why {n}?"), "chosen": "Because.", "rejected": "No.",
            "probability": p, "labeller": "judge"})
    };
    write_rows(&folder.join("labels.jsonl"), &[label(0, 0.9), label(1, 0.8), label(2, 0.7)]);
    succeeded(&annotate(folder, &["read", "people.sqlite", "labels.jsonl", "--judge"]));

    let agreement = rows(&annotate(folder, &["agree", "people.sqlite", "--json"]));
    let agreement = &agreement[0];
    assert_eq!((&agreement["answered"], &agreement["conflicts"]), (&json!(4), &json!(1)));
    assert_eq!(agreement["choice"]["raw"], 0.);
    let pair = agreement["pairs"].as_array().unwrap().iter().find(|pair| pair["other"] == "judge");
    let pair = pair.unwrap();
    assert_eq!((&pair["one"], &pair["items"]), (&json!("cy"), &json!(3)));
    assert!((pair["raw"].as_f64().unwrap() - 2. / 3.).abs() < 1e-12);
    // People: small won 2 and 1 against 1 of large.
    assert_eq!(agreement["makers"]["makers"][0]["maker"], "small");
    assert_eq!(agreement["makers"]["makers"][0]["comparisons"], 4.);
    let theta = agreement["makers"]["makers"][0]["theta"].as_f64().unwrap();
    assert!((2. * theta - 3f64.ln()).abs() < 1e-9);
    let table = annotate(folder, &["agree", "people.sqlite"]);
    succeeded(&table);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("cy and judge") && table.contains("people disagree on 1"), "{table}");

    let exported = annotate(folder, &["export", "people.sqlite", "--out", "preferences.jsonl"]);
    let said = succeeded(&exported);
    assert!(
        said.contains("3 labels of 3 votes") && said.contains("1 without a label: a tie"),
        "{said}"
    );
    let labels = read_rows(&folder.join("preferences.jsonl"));
    assert_eq!((&labels[1]["chosen"], &labels[1]["probability"]), (&json!("Because."), &json!(1.)));
    assert_eq!(labels[1]["chosen_maker"], "small");
    let keep = "export people.sqlite --out ties.jsonl --ties keep";
    succeeded(&annotate(folder, &keep.split(' ').collect::<Vec<_>>()));
    assert_eq!(read_rows(&folder.join("ties.jsonl"))[2]["probability"], 0.5);
    let argilla = "export people.sqlite --format argilla --out records.jsonl";
    let said = succeeded(&annotate(folder, &argilla.split(' ').collect::<Vec<_>>()));
    assert!(said.contains("not in this form: 2 items without an answer"), "{said}");
    succeeded(&annotate(folder, &["read", "again.sqlite", "records.jsonl"]));
    let again = rows(&annotate(folder, &["people", "again.sqlite"]));
    assert!(again.iter().any(|who| who["name"] == "cy" && who["done"] == 4), "{again:?}");
}

/// Two writers may give one prompt the same text.
#[test]
fn rows_with_equal_responses_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let row = |n: usize, other: &str| json!({"id": n.to_string(), "prompt": "Why?", "responses": ["Because.", other]});
    let rows = [row(0, "No."), row(1, "Because."), row(2, "Yes."), row(3, "Never.")];
    write_rows(&folder.join("candidates.jsonl"), &rows);
    let add = |file: &str| annotate(folder, &["add", "people.sqlite", file]);
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let added = add("candidates.jsonl");
    succeeded(&added);
    let expected = "3 items added, 1 row with equal responses left out; the study has 3\n";
    assert_eq!(said(&added), expected);
    let again = add("candidates.jsonl");
    succeeded(&again);
    let expected = "0 items added, 3 in the study already, 1 row with equal responses left out; the study has 3\n";
    assert_eq!(said(&again), expected);
    write_rows(&folder.join("equal.jsonl"), &rows[1..2]);
    let refused = annotate(folder, &["add", "new.sqlite", "equal.jsonl"]);
    assert!(refusal(&refused, 2).contains("row 1: equal responses, as in all rows"));
    assert!(!folder.join("new.sqlite").exists());
}

#[cfg(all(unix, feature = "ui"))]
#[test]
fn the_page_is_served_until_ctrl_c() {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::TcpStream,
        process::Stdio,
    };
    let folder = tempfile::tempdir().unwrap();
    let item = json!({"prompt": "Why?", "responses": ["Because.", "No."]});
    write_rows(&folder.path().join("items.jsonl"), &[item]);
    succeeded(&annotate(folder.path(), &["add", "people.sqlite", "items.jsonl", "--overlap", "1"]));
    let mut server = Command::new(env!("CARGO_BIN_EXE_rlaif"))
        .args(["ui", "people.sqlite", "--annotators", "ann,bob", "--port", "0"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let links: Vec<String> = lines.take(3).map(Result::unwrap).collect();
    assert!(links[0].starts_with("owner http://127.0.0.1:") && links[2].starts_with("bob "));
    let (host, token) = links[1].strip_prefix("ann http://").unwrap().split_once("/#").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let request = format!(
        "GET /api/next HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Because."), "{answer}");
    let asked = Command::new("kill").args(["-INT", &server.id().to_string()]).status().unwrap();
    assert!(asked.success());
    assert!(server.wait().unwrap().success());
}

#[test]
fn files_that_do_not_fit_end_with_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let said = refusal(&annotate(folder, &["agree", "missing.sqlite"]), 2);
    assert!(said.contains("missing.sqlite does not exist"), "{said}");
    fs::write(folder.join("rows.jsonl"), "{\"prompt\": \"p\", \"responses\": [\"one\"]}\n")
        .unwrap();
    let said = refusal(&annotate(folder, &["add", "people.sqlite", "rows.jsonl"]), 2);
    assert!(said.contains("rows.jsonl, row 1") && said.contains("give two that differ"), "{said}");
    assert!(!folder.join("people.sqlite").exists());
    let said = refusal(&annotate(folder, &["add", "rows.jsonl"]), 2);
    assert!(said.contains("not a study"), "{said}");
    let said = refusal(&annotate(folder, &["add", "new.sqlite", "--overlap", "2"]), 2);
    assert!(said.contains("`overlap` is 2"), "{said}");
    let item = json!({"prompt": "Why?", "responses": ["Because.", "No."]});
    write_rows(&folder.join("items.jsonl"), &[item]);
    succeeded(&annotate(folder, &["add", "people.sqlite", "items.jsonl"]));
    for share in ["7", "-0.5", "NaN"] {
        let share = format!("--least-known={share}");
        let export = ["export", "people.sqlite", "--out", "out.jsonl", &share];
        let said = refusal(&annotate(folder, &export), 2);
        assert!(said.contains("expected a share from 0 to 1"), "{said}");
    }
    assert!(!folder.join("out.jsonl").exists());
}

#[cfg(feature = "ui")]
#[test]
fn a_page_of_nothing_is_refused_with_its_choices() {
    let output = Command::new(env!("CARGO_BIN_EXE_rlaif")).arg("ui").output().unwrap();
    let said = refusal(&output, 2);
    for choice in ["STUDY", "--runs", "--model"] {
        assert!(said.contains(choice), "{said}");
    }
}
