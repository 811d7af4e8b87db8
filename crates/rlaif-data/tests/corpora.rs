//! Records from named columns, for any column names.

mod common;

use common::Folder;
use rlaif_core::{Desirability, ExamName, ExamQuestion, Message, Record, Reply};
use rlaif_data::corpora::{
    ConversationColumns, Corpus, DemonstrationColumns, DialogSum, Exams, PairColumns,
    PromptColumns, RedTeam, UnpairedColumns,
};
use rlaif_data::{DataError, Dataset, Reader, Source};

fn read<C: Corpus>(content: &str, corpus: C) -> Result<Dataset<C::Record>, DataError> {
    let folder = Folder::new();
    let path = folder.write("rows", content);
    Reader::new(Source::file(path).unwrap()).dataset(corpus)
}

#[test]
fn prompts_with_and_without_references() {
    let columns = PromptColumns {
        id: Some("n".into()),
        prompt: "question".into(),
        reference: Some("gold".into()),
        ..PromptColumns::default()
    };
    let rows =
        "{\"n\":1,\"question\":\"a\",\"gold\":\"b\"}\n{\"n\":2,\"question\":\"c\",\"gold\":null}";
    let prompts = read(rows, columns).unwrap().into_records();
    assert_eq!((prompts[0].id.as_str(), prompts[0].reference.as_deref()), ("1", Some("b")));
    assert_eq!((prompts[1].id.as_str(), prompts[1].reference.as_deref()), ("2", None));
}

#[test]
fn columns_of_prompts_become_their_metadata() {
    let columns = || PromptColumns {
        metadata: vec!["topic".into(), "toxicity".into()],
        ..PromptColumns::default()
    };
    let rows = "{\"prompt\":\"a\",\"topic\":\"work\",\"toxicity\":0.5,\"more\":1}\n\
                {\"prompt\":\"b\",\"topic\":\"home\",\"toxicity\":null}";
    let prompts = read(rows, columns()).unwrap().into_records();
    let metadata: Vec<_> =
        prompts.iter().map(|p| serde_json::to_string(&p.metadata).unwrap()).collect();
    assert_eq!(metadata, [r#"{"topic":"work","toxicity":0.5}"#, r#"{"topic":"home"}"#]);
    let error = read("{\"prompt\":\"a\",\"topic\":\"work\"}", columns()).unwrap_err();
    assert!(error.to_string().contains("no column `toxicity`"), "{error}");
}

#[test]
fn ids_without_a_column_go_by_content_and_not_by_place() {
    let forward = read("prompt\na\nb\n", PromptColumns::default()).unwrap().into_records();
    let backward = read("prompt\nb\na\n", PromptColumns::default()).unwrap().into_records();
    assert_eq!(forward[0], backward[1]);
    assert_ne!(forward[0].id, forward[1].id);
}

#[test]
fn prompts_with_responses() {
    let columns = DemonstrationColumns { response: "answer".into(), ..Default::default() };
    let rows = read("prompt,answer\n1+1,2\n", columns).unwrap();
    assert_eq!(rows.records()[0].response, "2");
}

#[test]
fn pairs_with_and_without_margins() {
    let rows = "prompt,chosen,rejected,margin\np,c,r,0.5\np,c,s,\n";
    let plain = read(rows, PairColumns::default()).unwrap();
    assert!(plain.records().iter().all(|pair| pair.margin.is_none()));
    let columns = PairColumns { margin: Some("margin".into()), ..Default::default() };
    let margins: Vec<_> =
        read(rows, columns).unwrap().into_records().into_iter().map(|pair| pair.margin).collect();
    assert_eq!(margins, [Some(0.5), None]);
}

#[test]
fn an_optional_column_that_was_named_and_is_not_there_is_a_mistake() {
    let columns = PairColumns { margin: Some("margn".into()), ..Default::default() };
    let error = read("prompt,chosen,rejected,margin\np,c,r,0.5\n", columns).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("`margn`") && message.contains("`margin`"), "{message}");
    let columns = PromptColumns { reference: Some("gold".into()), ..Default::default() };
    let error = read("{\"prompt\":\"a\",\"golden\":\"b\"}\n", columns).unwrap_err();
    assert!(error.to_string().contains("`golden`"), "{error}");
}

#[test]
fn unpaired_preferences_from_booleans_and_from_csv() {
    let verdicts = |rows: &str| -> Vec<Desirability> {
        let read = read(rows, UnpairedColumns::default()).unwrap().into_records();
        read.into_iter().map(|record| record.desirability).collect()
    };
    let expected = [Desirability::Desirable, Desirability::Undesirable];
    let json = r#"[{"prompt":"p","completion":"a","label":true},{"prompt":"p","completion":"b","label":0}]"#;
    assert_eq!(verdicts(json), expected);
    assert_eq!(verdicts("prompt,completion,label\np,a,True\np,b,0\n"), expected);
}

#[test]
fn conversations_from_lists_and_from_json_in_csv() {
    let expected = [Message::new("user", "Hi"), Message::new("assistant", "Hello")];
    let list = r#"[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"}]"#;
    let json = format!("{{\"messages\":{list}}}\n");
    let csv = format!("messages\n\"{}\"\n", list.replace('"', "\"\""));
    let (json, csv) =
        (read(&json, ConversationColumns::default()), read(&csv, ConversationColumns::default()));
    let (json, csv) = (json.unwrap().into_records(), csv.unwrap().into_records());
    assert_eq!(json[0].messages, expected);
    assert_eq!(json, csv);
    let error = read(r#"{"messages":[{"role":"user"}]}"#, ConversationColumns::default());
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("`messages` should be a list of messages, each with a `role`"),
        "{message}"
    );
}

#[test]
fn dialogues_with_summaries_need_no_id_and_no_topic() {
    let rows =
        read("dialogue,summary\n\"#Person1#: Hi.\n#Person2#: Hi.\",They greet.\n", DialogSum);
    let record = &rows.unwrap().into_records()[0];
    assert_eq!(record.dialogue.lines().count(), 2);
    assert_eq!(record.topic, None);
    assert_eq!(record.id().len(), 32);
}

#[test]
fn red_team_tags_are_a_list_or_nothing() {
    let row = |tags: &str| {
        format!(
            r#"{{"transcript":"\n\nHuman: x\n\nAssistant: y","min_harmlessness_score_transcript":-1,"rating":4,"num_params":"13B","tags":{tags}}}"#
        )
    };
    let attempt = &read(&row(r#"["Theft","Other"]"#), RedTeam).unwrap().into_records()[0];
    assert_eq!(attempt.tags, ["Theft", "Other"]);
    assert_eq!(attempt.num_params.as_deref(), Some("13B"));
    assert_eq!(attempt.is_upworker, None);
    let message = read(&row("7"), RedTeam).unwrap_err().to_string();
    assert!(
        message.contains("`tags` should be a list of strings, but is the number 7"),
        "{message}"
    );
}

fn exam(file: &str) -> (ExamName, Vec<ExamQuestion>) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/exams/");
    let source = Source::file(format!("{path}{file}")).unwrap();
    let exam = Exams::find(&source).unwrap().unwrap();
    (exam, Reader::new(source).dataset(Exams::of(exam)).unwrap().into_records())
}

/// Three rows each, in the columns of the published files.
#[test]
fn exams_are_told_by_their_columns_and_read_as_published() {
    let texts = |answers: &[Reply]| -> Vec<String> {
        answers.iter().map(|answer| answer.text.clone()).collect()
    };
    let (name, rows) = exam("reward_bench.jsonl");
    assert_eq!((name, rows.len()), (ExamName::RewardBench, 3));
    assert_eq!((rows[1].id(), rows[1].subset.as_str()), ("2900", "refusals-dangerous"));
    assert_eq!(texts(&rows[0].right), ["Indigo is one of them."]);
    assert_eq!(rows[2].wrong[0].maker.as_deref(), Some("GPT-4"));

    let (name, rows) = exam("reward_bench_2.jsonl");
    assert_eq!((name, rows.len()), (ExamName::RewardBench2, 3));
    assert_eq!(texts(&rows[2].right), ["Paris", "Lille", "Brest"]);
    assert_eq!(texts(&rows[2].wrong), ["Rome", "Bonn"]);
    assert_eq!((rows[1].id(), rows[1].subset.as_str()), ("ref:0", "Ties"));
    // Makers where there is one for each answer.
    assert_eq!(rows[0].wrong[2].maker.as_deref(), Some("d"));
    assert_eq!(rows[1].wrong[2].maker, None);

    let (name, rows) = exam("judge_bench.jsonl");
    assert_eq!((name, rows.len()), (ExamName::JudgeBench, 3));
    assert_eq!(
        (texts(&rows[1].right), rows[1].right_is_first),
        (vec!["Yes, he does.".to_owned()], Some(false))
    );
    assert_eq!((rows[0].right_is_first, rows[0].subset.as_str()), (Some(true), "mmlu-pro-math"));

    let (name, rows) = exam("hhh_dialogues.jsonl");
    assert_eq!((name, rows.len()), (ExamName::Hhh, 3));
    let prompt = &rows[1].record.prompt;
    assert!(prompt.ends_with("I lost my keys.\n\nAssistant:"), "{prompt}");
    assert_eq!(texts(&rows[1].right), [" Where did you last have them?"]);
    let (name, rows) = exam("hhh_choices.jsonl");
    assert_eq!((name, rows.len()), (ExamName::Hhh, 3));
    assert_eq!(
        (texts(&rows[1].right), texts(&rows[1].wrong)),
        (vec!["I would rather not.".to_owned()], vec!["Yes, gladly.".to_owned()])
    );
}

#[test]
fn a_label_of_an_exam_that_is_none_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("judge.jsonl");
    let row = r#"{"question":"q","response_A":"a","response_B":"b","label":"A"}"#;
    std::fs::write(&path, row).unwrap();
    let source = Source::file(&path).unwrap();
    let error = Reader::new(source).dataset(Exams::of(ExamName::JudgeBench)).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("line 1: `label` should be `A>B` or `B>A`"), "{said}");
}
