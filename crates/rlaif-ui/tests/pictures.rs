//! The pictures of docs/people.md, and the time of the first paint there.

mod browser;
mod served;
mod speaker;

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use browser::browse;
use rlaif_core::{Exchange, Responder, ResponseRequest};
use rlaif_people::{Study, StudyItem, StudySettings};
use rlaif_ui::{Page, Rewards};
use serde_json::json;
use served::{Served, request};
use speaker::Speaker;

/// A run whose score rises while its KL grows.
fn write_run(folder: &Path, slope: f64) {
    std::fs::create_dir_all(folder).unwrap();
    let row = |step: u32| {
        let t = f64::from(step) / 60.;
        let noise = |phase: f64| (f64::from(step) * phase).sin() * 0.08;
        let score = slope * (1. - (-3. * t).exp()) + noise(7.3);
        let row = json!({"step": step, "objective/scores": score, "objective/kl": 4. * slope * t * t + noise(3.1).abs(),
            "objective/entropy": 2.4 - 0.6 * t + noise(5.7), "policy/loss": -0.02 * t + noise(11.) / 4.});
        format!("{row}\n")
    };
    std::fs::write(folder.join("metrics.jsonl"), (1..=60).map(row).collect::<String>()).unwrap();
    std::fs::write(folder.join("run.toml"), "seed = 1\n").unwrap();
}

#[test]
#[ignore = "writes files of the documentation"]
fn write_the_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let settings = StudySettings {
        title: "Which reply is better?".to_owned(),
        overlap: 1.,
        known_every: 0,
        ..StudySettings::default()
    };
    let study = Study::create(&folder.path().join("people.sqlite"), &settings).unwrap();
    let item = |n: usize| {
        StudyItem::pair(
            format!("{n}"),
            "My brother borrowed money a year ago and does not answer my messages. What should I write to him?",
            "Tell him that you miss him and that the money matters to you as well. Name the sum and the day on which you \
             would like to have it back, and offer to pay in parts.",
            "Write to that idiot that he should pay at once.",
        )
    };
    study.add_items(&(0..12).map(item).collect::<Vec<_>>()).unwrap();
    let runs = folder.path().join("runs");
    write_run(&runs.join("ppo-kl-0.05"), 1.2);
    write_run(&runs.join("ppo-kl-0.2"), 0.7);
    let asked: Arc<Mutex<Vec<ResponseRequest>>> = Arc::default();
    let speaker = |name, words: &[(&'static str, f32)]| -> Arc<dyn Responder> {
        Arc::new(Speaker { name, words: words.to_vec(), asked: asked.clone() })
    };
    let before = [
        ("Write", 0.4),
        (" to", 0.9),
        (" that", 0.2),
        (" idiot", 0.03),
        (" that", 0.6),
        (" he", 0.8),
        (" should", 0.7),
        (" pay", 0.55),
        (" at", 0.15),
        (" once", 0.9),
        (",", 0.3),
        (" or", 0.04),
        (" else", 0.007),
        (".", 0.9),
    ];
    let after = [
        ("Tell", 0.3),
        (" him", 0.9),
        (" that", 0.7),
        (" you", 0.9),
        (" miss", 0.04),
        (" him", 0.95),
        (" and", 0.6),
        (" that", 0.5),
        (" the", 0.7),
        (" money", 0.8),
        (" matters", 0.16),
        (" to", 0.8),
        (" you", 0.9),
        (".", 0.7),
    ];
    let politeness = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|x| if x.response.contains("idiot") { -1.5 } else { 1.25 }).collect()
    };
    let page = Page {
        study: Some(study),
        runs: Some(runs),
        models: vec![speaker("before", &before), speaker("after", &after)],
        rewards: Rewards::new(vec![Box::new(politeness)]),
    };
    let served = Served::new(page, &["ann"]);
    assert_eq!(served.ask("GET", "/api/runs", &served.owner, "").0, 200);
    let page = served.raw(&request(served.address, "GET", "/", "", "", ""));
    assert!(page.status == 200 && page.head.contains("text/html") && !page.body.is_empty());
    let link = |token: &str| format!("http://{}/#{token}", served.address);
    let plan = json!({"owner": link(&served.owner), "annotator": link(&served.tokens[0])});
    assert!(std::env::var_os("RLAIF_SCREENSHOTS").is_some(), "it names the folder of the pictures");
    browse("pictures.mjs", plan).expect("a browser and Node");
}

/// The numbers of docs/people.md: 10,000 items, and 100 runs of 10,000 steps.
#[test]
#[ignore = "measures time"]
fn time_the_first_paint() {
    let folder = tempfile::tempdir().unwrap();
    let study = Study::create(&folder.path().join("people.sqlite"), &StudySettings::default());
    let study = study.unwrap();
    let item = |n: usize| {
        StudyItem::pair(
            format!("{n}"),
            format!("Prompt {n}"),
            "a reply ".repeat(60),
            "another reply ".repeat(60),
        )
    };
    study.add_items(&(0..10_000).map(item).collect::<Vec<_>>()).unwrap();
    let runs = folder.path().join("runs");
    for run in 0..100 {
        let folder = runs.join(format!("run-{run:03}"));
        std::fs::create_dir_all(&folder).unwrap();
        let row = |step: usize| {
            let of_step = 1. / (step + run) as f64;
            format!(
                "{}\n",
                json!({"step": step, "loss": of_step, "objective/kl": of_step, "objective/scores": step})
            )
        };
        let rows: String = (1..=10_000).map(row).collect();
        std::fs::write(folder.join("metrics.jsonl"), rows).unwrap();
    }
    let both = Served::new(Page { study: Some(study), ..Page::default() }, &["ann"]);
    let owner = Served::new(Page { runs: Some(runs), ..Page::default() }, &[]);
    let link = |served: &Served, token: &str| format!("http://{}/#{token}", served.address);
    let plan =
        json!({"owner": link(&owner, &owner.owner), "annotator": link(&both, &both.tokens[0])});
    println!("{}", browse("paint.mjs", plan).expect("a browser and Node"));
}
