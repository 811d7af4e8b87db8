//! Ranking, editing and refereeing, by keys in a headless browser if there is one.

mod browser;
mod served;

use browser::browse;
use rlaif_core::Reply;
use rlaif_people::{
    AnnotatorRole, LabelOptions, PeopleChoice, PeopleLabels, Study, StudyItem, StudySettings,
};
use rlaif_ui::Page;
use serde_json::json;
use served::{Served, request};

#[test]
fn rankings_edits_and_referees_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("people.sqlite");
    let settings = StudySettings { overlap: 1., known_every: 0, ..StudySettings::default() };
    let study = Study::create(&path, &settings).unwrap();
    let mut ranked = StudyItem::pair("ranked", "Which one?", "the best reply", "a middling reply");
    ranked.responses.push(Reply::new("the worst reply"));
    let pair = |n: usize| {
        StudyItem::pair(format!("{n}"), format!("Prompt {n}"), "the best reply", "the worst reply")
    };
    study.add_items(&[ranked, pair(1), pair(2), pair(3)]).unwrap();
    let referee = study.add_annotator("ref", AnnotatorRole::Referee).unwrap();
    let served = Served::new(Page { study: Some(study), ..Page::default() }, &["ann", "bob"]);
    let page = served.raw(&request(served.address, "GET", "/", "", "", ""));
    assert!(page.status == 200 && page.head.contains("text/html") && page.body.contains("app.js"));
    let (status, _) = served.ask("GET", "/api/study", &served.owner, "");
    assert_eq!(status, 200);
    let link = |token: &str| format!("http://{}/#{token}", served.address);
    let plan = json!({"owner": link(&served.owner), "ann": link(&served.tokens[0]), "bob": link(&served.tokens[1]),
        "referee": link(referee.token.as_deref().unwrap())});
    if browse("roles.mjs", plan).is_none() {
        return;
    }
    let contents = Study::open(&path).unwrap().contents().unwrap();
    // Two annotators with four items each, and the referee with the item on which they disagree.
    assert_eq!(contents.answers.len(), 9);
    let rankings: Vec<_> =
        contents.answers.iter().filter(|one| one.answer.choice == PeopleChoice::Ranked).collect();
    assert_eq!(rankings.len(), 2);
    for stored in rankings {
        assert_eq!(stored.answer.ranking, [0, 1, 2], "in the study's order, not the page's");
    }
    let better = contents.demonstrations();
    let texts: Vec<(&str, &str)> =
        better.iter().map(|row| (row.annotator.as_str(), row.response.as_str())).collect();
    assert_eq!(texts, [("ann", "the best reply, and better")]);
    let labels = PeopleLabels::of(&contents, &LabelOptions::default()).labels;
    // Three pairs of the ranking and three items; the referee's answer has replaced the votes.
    assert_eq!(labels.len(), 6);
    assert!(labels.iter().all(|label| label.probability == 1.), "{}", json!(labels));
}
