//! Every form of rows is recognised, and read as its card describes (`fixtures/export.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rlaif_core::{DemonstrationRow, Desirability, PairRow, PromptRow, TextOrMessages};
use rlaif_data::{
    DataError, Dialogues, Import, ImportColumns, ImportOptions, Ranked, Reader, RowForm,
    SafeRlhfVerdict, Source, Unusable,
};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Expected {
    form: String,
    wanted: String,
    rows: Vec<Value>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import")
}

fn source(name: &str) -> Source {
    Source::file(fixtures().join(name)).unwrap()
}

/// The texts of some keys. A single message of the assistant stands for its text, as preferences
/// of texts after a conversation are written.
fn texts(parts: &[(&str, &TextOrMessages)]) -> Value {
    parts.iter().map(|(key, text)| ((*key).to_owned(), json!(text))).collect()
}

fn answered(text: &TextOrMessages) -> Value {
    match text {
        TextOrMessages::Text(text) => json!([{"role": "assistant", "content": text}]),
        messages @ TextOrMessages::Messages(_) => json!(messages),
    }
}

#[test]
fn every_form_is_told_and_read() {
    let golden = std::fs::read(fixtures().join("golden.json")).unwrap();
    let golden: BTreeMap<String, Expected> = serde_json::from_slice(&golden).unwrap();
    let mut wrong = Vec::new();
    for (name, expected) in &golden {
        let import = Import::find(&source(name)).unwrap();
        if import.form.name() != expected.form {
            wrong.push(format!("{name} is told as {}, not {}", import.form, expected.form));
            continue;
        }
        let reader = Reader::new(source(name));
        let found: Vec<Value> = match expected.wanted.as_str() {
            "pairs" => {
                let pairs = import.pairs(reader).unwrap();
                let pairs = pairs.records().iter();
                pairs
                    .map(|p| {
                        let mut row = texts(&[
                            ("prompt", &p.prompt),
                            ("chosen", &p.chosen),
                            ("rejected", &p.rejected),
                        ]);
                        if matches!(p.prompt, TextOrMessages::Messages(_)) {
                            row["chosen"] = answered(&p.chosen);
                            row["rejected"] = answered(&p.rejected);
                        }
                        row
                    })
                    .collect()
            }
            "demonstrations" => {
                let rows = import.demonstrations(reader).unwrap();
                let rows = rows.records().iter();
                rows.map(|r| texts(&[("prompt", &r.prompt), ("response", &r.response)])).collect()
            }
            "unpaired" => {
                let rows = import.unpaired(reader).unwrap();
                let rows = rows.records().iter();
                rows.map(|r| {
                    let mut row = texts(&[("prompt", &r.prompt), ("response", &r.response)]);
                    row["desirability"] = json!(r.desirability);
                    row
                })
                .collect()
            }
            "steps" => {
                let rows = import.steps(reader).unwrap();
                let rows = rows.records().iter();
                rows.map(|r| json!({"prompt": r.prompt, "steps": r.steps, "labels": r.labels}))
                    .collect()
            }
            "conversations" => {
                let rows = import.conversations(reader).unwrap();
                let rows = rows.records().iter();
                rows.map(|r| texts(&[("conversation", &r.conversation)])).collect()
            }
            "prompts" => {
                let rows = import.prompts(reader).unwrap();
                rows.records().iter().map(|r| texts(&[("prompt", &r.prompt)])).collect()
            }
            "problems" => {
                let rows = import.prompts(reader).unwrap();
                let row = |r: &PromptRow| json!({"prompt": r.prompt, "reference": r.reference});
                rows.records().iter().map(row).collect()
            }
            other => panic!("{other}"),
        };
        if found != expected.rows {
            let (found, expected) = (json!(found), json!(expected.rows));
            wrong.push(format!("{name}\n  found    {found}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Solutions are learned as a whole, and columns of the row are metadata of the prompt.
#[test]
fn problems_have_solutions_and_metadata() {
    let import = |name: &str| Import::find(&source(name)).unwrap();
    let reader = |name: &str| Reader::new(source(name));
    let learned = import("gsm8k.jsonl").demonstrations(reader("gsm8k.jsonl")).unwrap();
    assert_eq!(learned.records()[1].response, "A dozen dozens.\n#### 1,440".into());
    assert_eq!(learned.len(), 3);
    let prompts = import("dapo.parquet").prompts(reader("dapo.parquet")).unwrap();
    let metadata = &prompts.records()[1].metadata;
    assert_eq!(metadata["extra_info"]["index"], "b426d104");
    assert_eq!(metadata["data_source"], "math_dapo");
    let error = import("dapo.parquet").demonstrations(reader("dapo.parquet")).unwrap_err();
    assert!(matches!(error, DataError::WrongForm { form: RowForm::Dapo, .. }), "{error}");
}

#[test]
fn what_is_left_out_is_counted() {
    let dropped = |name: &str| {
        let source = source(name);
        let pairs = Import::find(&source).unwrap().pairs(Reader::new(source)).unwrap();
        let steps = &pairs.provenance().steps;
        steps.iter().flat_map(|step| step.dropped.clone()).collect::<BTreeMap<String, u64>>()
    };
    let counts = |counts: &[(&str, u64)]| {
        counts.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(
        dropped("helpsteer2_preference.jsonl"),
        counts(&[("a tie", 1), ("neither response is valid", 1)])
    );
    assert_eq!(
        dropped("helpsteer2.jsonl"),
        counts(&[("a tie", 1), ("a prompt with one response", 1)])
    );
    assert_eq!(dropped("arena.csv"), counts(&[("a tie", 1), ("a turn is missing", 1)]));
    assert_eq!(
        dropped("empty.jsonl"),
        counts(&[("an empty response", 2), ("both responses are the same", 1)])
    );
    assert_eq!(
        dropped("hh.jsonl"),
        counts(&[
            ("both responses are the same", 1),
            ("the dialogues have no beginning in common", 1)
        ])
    );
}

#[test]
fn what_data_sets_leave_open_is_an_option() {
    let with = |name: &str, options| {
        let source = source(name);
        let import = Import::find(&source).unwrap().with(options);
        import.pairs(Reader::new(source)).unwrap().into_records()
    };
    let options = ImportOptions::default();
    let safer = ImportOptions { safe_rlhf: SafeRlhfVerdict::Safer, ..options };
    assert_eq!(with("safe_rlhf.jsonl", options)[0].chosen, "one".into());
    assert_eq!(with("safe_rlhf.jsonl", safer)[0].chosen, "zero".into());
    for (ranked, expected) in
        [(Ranked::BestAndWorst, 1), (Ranked::BestAndOthers, 2), (Ranked::All, 3)]
    {
        let pairs = with("nectar.jsonl", ImportOptions { ranked, ..options });
        assert_eq!(pairs.len(), expected);
        assert!(pairs.iter().all(|pair| pair.chosen != " Third".into()));
    }
    let messages = ImportOptions { dialogues: Dialogues::Messages, ..options };
    let pair = &with("hh.jsonl", messages)[1];
    assert_eq!(
        json!([pair.prompt, pair.chosen]),
        json!([
            [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"}
            ],
            [{"role": "assistant", "content": "d"}]
        ])
    );
    let unpaired = Import::of(RowForm::Shp).unpaired(Reader::new(source("shp.jsonl"))).unwrap();
    assert_eq!(unpaired.len(), 4);
    assert_eq!(unpaired.records()[0].desirability, Desirability::Desirable);
}

#[test]
fn tools_and_options_of_a_row_come_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    let row = json!({
        "messages": [
            {"role": "user", "content": "What time?"},
            {"role": "assistant", "content": null, "tool_calls": [{"name": "clock", "arguments": {"z": 1, "a": 2}}]},
            {"role": "tool", "content": "12", "tool_call_id": "1", "name": "clock"},
            {"role": "assistant", "content": "Noon.", "reasoning_content": "12."}
        ],
        "tools": "[{\"name\": \"clock\"}]",
        "chat_template_kwargs": {"enable_thinking": false}
    });
    std::fs::write(&path, row.to_string()).unwrap();
    let source = Source::file(&path).unwrap();
    let rows = Import::find(&source).unwrap().conversations(Reader::new(source)).unwrap();
    let found = &rows.records()[0];
    assert_eq!(json!(found.conversation).to_string(), row["messages"].to_string());
    assert_eq!(found.chat.tools, Some(vec![json!({"name": "clock"})]));
    assert_eq!(found.chat.kwargs["enable_thinking"], false);
}

#[test]
fn unknown_columns_and_what_a_form_does_not_give_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.csv");
    std::fs::write(&path, "question,reply\na,b\n").unwrap();
    let error = Import::find(&Source::file(&path).unwrap()).unwrap_err();
    assert!(matches!(error, DataError::UnknownForm { .. }));
    assert!(error.to_string().contains("the columns are `question`, `reply`"), "{error}");
    let error = Import::of(RowForm::Text).pairs(Reader::new(source("text.jsonl"))).unwrap_err();
    let told = "text.jsonl: rows of TRL language modelling (text) (columns `text`) do not contain preference \
                pairs; docs/data.md lists";
    assert!(error.to_string().contains(told), "{error}");
}

#[test]
fn columns_have_the_names_that_they_are_given_and_rows_their_places() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    let rows = [
        r#"{"n": 7, "question": "a", "answer": "b", "gold": "c", "source": "web"}"#,
        r#"{"n": 8, "question": [{"role": "user", "content": "d"}], "answer": "e", "gold": null, "source": null}"#,
        r#"{"n": 9, "question": "f", "answer": " ", "gold": "g", "source": "web"}"#,
    ];
    std::fs::write(&path, rows.join("\n")).unwrap();
    let source = Source::file(&path).unwrap();
    let columns = ImportColumns {
        id: Some("n".to_owned()),
        reference: Some("gold".to_owned()),
        metadata: vec!["source".to_owned()],
        ..ImportColumns::default().rename("question", "prompt").rename("answer", "completion")
    };
    let import = Import::find_named(&source, columns.clone()).unwrap();
    assert_eq!(import.form, RowForm::PromptCompletion);
    let prompts = import.prompts(Reader::new(source.clone())).unwrap().into_records();
    let told: Vec<_> = prompts.iter().map(|row| (&*row.id, row.reference.as_deref())).collect();
    assert_eq!(told, [("7", Some("c")), ("8", None), ("9", Some("g"))]);
    assert_eq!((prompts[0].metadata.len(), prompts[1].metadata.len()), (1, 0));
    // An empty response is read only for those who count it themselves.
    let demonstrations = |import: &Import| {
        let rows = import.demonstrations(Reader::new(source.clone())).unwrap();
        rows.records().len()
    };
    assert_eq!(demonstrations(&import), 2);
    let all = ImportOptions { unusable: Unusable::Read, ..ImportOptions::default() };
    assert_eq!(demonstrations(&import.clone().with(all)), 3);
    let place = |id: &str| import.place::<DemonstrationRow>(Reader::new(source.clone()), id);
    assert!(place("8").unwrap().ends_with("x.jsonl, line 2"));
    assert_eq!(place("9"), None);
    assert!(import.gives::<DemonstrationRow>() && !import.gives::<PairRow>());
    let wrong = columns.rename("title", "text");
    let error = Import::find_named(&source, wrong).unwrap_err().to_string();
    assert!(error.contains("no column `title`"), "{error}");
}

/// A list that Python wrote by `str` would otherwise be learned as text.
#[test]
fn python_lists_are_refused_and_rows_without_a_response_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.csv");
    let said = |role: &str, text: &str| format!("\"[{{'role': '{role}', 'content': '{text}'}}]\"");
    let row = [said("user", "Hi"), said("assistant", "Yo"), said("assistant", "No")].join(",");
    std::fs::write(&path, format!("prompt,chosen,rejected\n{row}\n")).unwrap();
    let source = Source::file(&path).unwrap();
    let import = Import::find(&source).unwrap();
    let error = import.pairs(Reader::new(source)).unwrap_err().to_string();
    assert!(
        error.contains("line 2: `chosen` should be") && error.contains("json.dumps"),
        "{error}"
    );
    // In JSON Lines a string is a text, also one that looks like messages, as for TRL and datasets.
    let path = folder.path().join("texts.jsonl");
    let listed = [r#"[{"role": "user", "content": "Hi"}]"#, "[{'role': 'user', 'content': 'Hi'}]"];
    let row = json!({"prompt": "Write a list.", "chosen": listed[0], "rejected": listed[1]});
    std::fs::write(&path, row.to_string()).unwrap();
    let source = Source::file(&path).unwrap();
    let pairs = Import::find(&source).unwrap().pairs(Reader::new(source)).unwrap();
    let pair = &pairs.records()[0];
    assert_eq!((&pair.chosen, &pair.rejected), (&listed[0].into(), &listed[1].into()));
    // In CSV there is no other way to write them.
    let path = folder.path().join("messages.csv");
    let listed = listed[0].replace('"', "\"\"");
    std::fs::write(&path, format!("prompt,chosen,rejected\n\"{listed}\",Yo,No\n")).unwrap();
    let source = Source::file(&path).unwrap();
    let pairs = Import::find(&source).unwrap().pairs(Reader::new(source)).unwrap();
    let asked = vec![rlaif_core::Message::new("user", "Hi")];
    assert_eq!(pairs.records()[0].prompt, asked.into());
    // A response that is NaN is an error, as docs/data.md says.
    let path = folder.path().join("nan.jsonl");
    std::fs::write(&path, r#"{"prompt":"p","chosen":NaN,"rejected":"r"}"#).unwrap();
    let source = Source::file(&path).unwrap();
    let error = Import::of(RowForm::Preference).pairs(Reader::new(source)).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("line 1: `chosen` should be") && error.contains("NaN"), "{error}");
    // An object over several lines is refused as a row, and the way out is named.
    let path = folder.path().join("pretty.jsonl");
    std::fs::write(&path, "{\n  \"prompt\": \"p\"\n}\n").unwrap();
    let error = Import::find(&Source::file(&path).unwrap()).unwrap_err().to_string();
    assert!(error.contains("line 1: not a JSON object") && error.contains("jq -c ."), "{error}");
    // A response that is null is an empty one.
    let path = folder.path().join("null.jsonl");
    let row = |chosen: &str| format!(r#"{{"prompt":"p","chosen":{chosen},"rejected":"r"}}"#);
    std::fs::write(&path, format!("{}\n{}\n", row("\"c\""), row("null"))).unwrap();
    let source = Source::file(&path).unwrap();
    let pairs = Import::find(&source).unwrap().pairs(Reader::new(source)).unwrap();
    assert_eq!(pairs.records().len(), 1);
    assert_eq!(pairs.provenance().steps[0].dropped["an empty response"], 1);
    // So is a conversation in which the assistant's turn is.
    let path = folder.path().join("said.jsonl");
    let row = |said: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":"u"}},{{"role":"assistant","content":"{said}"}}]}}"#
        )
    };
    std::fs::write(&path, format!("{}\n{}\n", row("a"), row(" "))).unwrap();
    let source = Source::file(&path).unwrap();
    let import = Import::find(&source).unwrap();
    let rows = import.conversations(Reader::new(source)).unwrap();
    assert_eq!(rows.records().len(), 1);
    assert_eq!(rows.provenance().steps[0].dropped["the assistant says nothing"], 1);
    // Counts of rows, none of which can be read.
    let path = folder.path().join("bad.jsonl");
    let row = r#"{"prompt": "p", "completion": "c", "label": false}"#;
    std::fs::write(&path, format!("{row}\n{row}\n")).unwrap();
    let source = Source::file(&path).unwrap();
    let import = Import::find(&source).unwrap();
    let error = import.demonstrations(Reader::new(source)).unwrap_err().to_string();
    assert!(
        error.contains("none of the 2 rows") && error.contains("undesirable response: 2"),
        "{error}"
    );
}
