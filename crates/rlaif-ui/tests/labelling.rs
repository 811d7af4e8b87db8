//! The page in a headless browser, if there is one: pairs that are labelled by keys and by clicks, tabs, drafts, runs.

mod browser;
mod served;
mod studies;

use std::collections::BTreeMap;

use browser::browse;
use rlaif_people::{AnnotatorRole, PeopleAnswer, PeopleChoice, Study, StudyAgreement};
use rlaif_ui::Page;
use serde_json::json;
use served::{Served, request};
use studies::{of, study, write_run};

#[test]
fn two_people_label_thirty_pairs_by_keys_alone() {
    let (folder, study) = study(30);
    let path = folder.path().join("people.sqlite");
    let runs = folder.path().join("runs");
    // A browser opens at most six connections to a server.
    (1..=9).for_each(|n| write_run(&runs.join(format!("run-{n}")), 50 * n));
    let served = Served::new(Page { runs: Some(runs), ..of(study) }, &["ann", "bob"]);
    let page = served.raw(&request(served.address, "GET", "/", "", "", ""));
    assert!(page.status == 200 && page.head.contains("text/html") && page.body.contains("app.js"));
    let (status, runs) = served.ask("GET", "/api/runs", &served.owner, "");
    assert_eq!((status, runs.as_array().map(Vec::len)), (200, Some(9)));
    let link = |token: &str| format!("http://{}/#{token}", served.address);
    let annotator = |at: usize, name, width, height, scheme| {
        json!({"link": link(&served.tokens[at]), "name": name, "width": width, "height": height,
            "scheme": scheme, "items": 30})
    };
    let plan = json!({
        "owner": link(&served.owner),
        "annotators": [annotator(0, "ann", 1280, 900, "light"), annotator(1, "bob", 390, 844, "dark")],
        "forged": link("00000000000000000000000000000000"),
    });
    if browse("label.mjs", plan).is_none() {
        return;
    }
    let contents = Study::open(&path).unwrap().contents().unwrap();
    assert_eq!(contents.answers.len(), 60);
    for stored in &contents.answers {
        assert_eq!(stored.answer.choice, PeopleChoice::First, "{stored:?}");
        assert!(stored.answer.strength.is_none_or(|strength| strength == -2), "{stored:?}");
    }
    let with = |holds: &dyn Fn(&rlaif_people::StoredAnswer) -> bool| {
        contents.answers.iter().filter(|stored| holds(stored)).count()
    };
    assert!(with(&|stored| stored.answer.strength == Some(-2)) >= 8);
    assert!(with(&|stored| stored.answer.note.contains("ok")) >= 8);
    assert!(with(&|stored| stored.order == [1, 0]) > 15, "answers were shown in both orders");
    assert_eq!(StudyAgreement::of(&contents).choice.raw, Some(1.));
}

/// The answers that a study of four items has after a script with the links of the owner and of an annotator; `None` without
/// a browser.
fn answers_after(script: &str) -> Option<Vec<PeopleAnswer>> {
    let (folder, study) = study(4);
    let path = folder.path().join("people.sqlite");
    let served = Served::new(of(study), &["ann"]);
    let link = |token: &str| format!("http://{}/#{token}", served.address);
    browse(script, json!({"owner": link(&served.owner), "link": link(&served.tokens[0])}))?;
    let contents = Study::open(&path).unwrap().contents().unwrap();
    Some(contents.answers.into_iter().map(|stored| stored.answer).collect())
}

#[test]
fn a_tab_that_answers_too_late_says_so() {
    let Some(answers) = answers_after("tabs.mjs") else { return };
    assert_eq!(answers.len(), 2, "those of the first tab");
    assert!(answers.iter().all(|answer| answer.note.is_empty()), "{answers:?}");
}

#[test]
fn drafts_are_saved_before_an_undo_and_edits_are_not_dropped_unasked() {
    let Some(answers) = answers_after("drafts.mjs") else { return };
    assert_eq!(answers.len(), 2);
    assert!(answers[0].edited.is_none() && answers[0].note.is_empty(), "{answers:?}");
    assert_eq!(answers[1].note, "abc");
    assert!(answers[1].edited.as_ref().is_some_and(|edited| edited.text.contains('z')));
}

#[test]
fn facets_and_reasons_are_clicked_and_time_counts_while_the_page_is_visible() {
    let (folder, study) = study(3);
    let path = folder.path().join("people.sqlite");
    let served = Served::new(of(study), &["ann", "bob"]);
    let link = |token: &String| format!("http://{}/#{token}", served.address);
    let links: Vec<String> = served.tokens.iter().map(link).collect();
    let plan = json!({"owner": links[0], "links": links});
    if browse("details.mjs", plan).is_none() {
        return;
    }
    let contents = Study::open(&path).unwrap().contents().unwrap();
    assert_eq!(contents.answers.len(), 4);
    for who in &contents.annotators {
        let own = contents.answers.iter().filter(|stored| stored.annotator == who.number);
        let own: Vec<_> = own.map(|stored| &stored.answer).collect();
        // The good response is the study's first one, wherever it was shown.
        let facets = [
            ("harmless", PeopleChoice::BothBad),
            ("helpful", PeopleChoice::First),
            ("honest", PeopleChoice::Tie),
        ];
        let facets = facets.map(|(name, choice)| (name.to_owned(), choice));
        assert_eq!(own[0].facets, BTreeMap::from(facets), "{}", who.name);
        assert_eq!(own[0].reasons.iter().collect::<Vec<_>>(), ["clearer"]);
        // Two seconds before a reload, two after it without the hidden minute, one after the undo.
        assert_eq!((own[0].seconds, own[1].seconds), (5., 0.7), "{}", who.name);
        assert!(own[1].facets.is_empty() && own[1].reasons.is_empty());
    }
}

#[test]
fn names_with_hidden_characters_are_codes_and_messages_cover_nothing() {
    let (folder, study) = study(2);
    let run = folder.path().join("runs/a\u{202e}b");
    std::fs::create_dir_all(&run).unwrap();
    let row = |step: u32| format!("{}\n", json!({"step": step, "loss\u{202e}": step}));
    std::fs::write(run.join("metrics.jsonl"), (1..=3).map(row).collect::<String>()).unwrap();
    let finding = json!([{"step": 2, "symptom": "kl-runaway", "seen": "loss\u{202e} 9", "cause": "c", "advice": "a"}]);
    std::fs::write(run.join("findings.json"), finding.to_string()).unwrap();
    study.add_annotator("a referee of a long name", AnnotatorRole::Referee).unwrap();
    let page = Page { runs: Some(folder.path().join("runs")), ..of(study) };
    let served = Served::new(page, &["annotator@example.org"]);
    browse("names.mjs", json!({"owner": format!("http://{}/#{}", served.address, served.owner)}));
}
