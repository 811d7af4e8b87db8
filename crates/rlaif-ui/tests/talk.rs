//! Models side by side, in a headless browser if there is one.

mod browser;
mod served;
mod speaker;

use std::sync::{Arc, Mutex};

use browser::browse;
use rlaif_core::{Exchange, Responder, ResponseRequest};
use rlaif_people::{Study, StudySettings};
use rlaif_ui::{Page, Rewards};
use serde_json::json;
use served::{Served, request};
use speaker::Speaker;

#[test]
fn two_models_answer_side_by_side() {
    let asked: Arc<Mutex<Vec<ResponseRequest>>> = Arc::default();
    let speaker = |name, words: &[(&'static str, f32)]| -> Arc<dyn Responder> {
        Arc::new(Speaker { name, words: words.to_vec(), asked: asked.clone() })
    };
    let before = [
        ("That", 0.3),
        (" was", 0.9),
        (" a", 0.7),
        (" stupid", 0.04),
        (" idea", 0.6),
        (",", 0.5),
        (" you", 0.15),
        (" fool", 0.008),
        (".", 0.8),
        (" <script>window.pwned = 1</script>", 0.1),
        ("\u{202e}", 0.02),
    ];
    let after = [
        ("That", 0.4),
        (" was", 0.9),
        (" a", 0.8),
        (" good", 0.3),
        (" try", 0.02),
        (";", 0.1),
        (" ask", 0.04),
        (" your", 0.6),
        (" brother", 0.5),
        (" first", 0.18),
        (".", 0.9),
    ];
    let politeness = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|x| if x.response.contains("fool") { -1.5 } else { 1.25 }).collect()
    };
    let folder = tempfile::tempdir().unwrap();
    let study = Study::create(&folder.path().join("people.sqlite"), &StudySettings::default());
    let page = Page {
        study: Some(study.unwrap()),
        models: vec![speaker("before", &before), speaker("after", &after)],
        rewards: Rewards::new(vec![Box::new(politeness)]),
        ..Page::default()
    };
    let served = Served::new(page, &["ann"]);
    let refused = served.ask("POST", "/api/score", &served.tokens[0], "{}").0;
    assert_eq!(refused, 403, "scores are for the owner");
    let (status, scores) = served.ask(
        "POST",
        "/api/score",
        &served.owner,
        "{\"prompt\": \"p\", \"response\": \"fool\"}",
    );
    assert_eq!((status, &scores[0]["score"]), (200, &json!(-1.5)));
    let script = served.raw(&request(served.address, "GET", "/talk.js", "", "", ""));
    assert!(script.status == 200 && script.head.contains("text/javascript"), "{}", script.head);
    let owner = format!("http://{}/#{}", served.address, served.owner);
    if browse("talk.mjs", json!({"owner": owner})).is_none() {
        return;
    }
    let asked = asked.lock().unwrap();
    assert!(asked.len() >= 6, "{}", asked.len());
    for both in asked.chunks(2) {
        assert_eq!(both[0], both[1], "the same prompt, settings and seed for both");
        assert_eq!((both[0].seed, both[0].temperature), (7, 0.5));
    }
}
