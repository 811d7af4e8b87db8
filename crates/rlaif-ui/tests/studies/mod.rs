//! Studies and runs of the tests.

use std::path::Path;

use rlaif_people::{Study, StudyItem, StudySettings};
use rlaif_ui::Page;
use serde_json::json;
use tempfile::TempDir;

pub(crate) fn settings() -> StudySettings {
    StudySettings { overlap: 1., known_every: 0, ..StudySettings::default() }
}

/// A study in which each item's first response is the better one.
pub(crate) fn study(items: usize) -> (TempDir, Study) {
    let folder = tempfile::tempdir().unwrap();
    let study = Study::create(&folder.path().join("people.sqlite"), &settings()).unwrap();
    let item = |at: usize| {
        let markup =
            "<script>window.pwned = 1</script><img src=x onerror=\"window.pwned = 2\"> # *Title*";
        let mut item = StudyItem::pair(
            format!("secret-{at}"),
            format!("Prompt {at} {markup} \u{202e}turned"),
            format!("a good answer {at} {markup}\n\n- one\n- two"),
            format!("a poor answer {at} \u{2066}hidden\u{0}"),
        );
        item.responses[0].maker = Some("maker-a".to_owned());
        item.responses[1].maker = Some("maker-b".to_owned());
        item.toxic = at % 10 == 4;
        item
    };
    study.add_items(&(0..items).map(item).collect::<Vec<_>>()).unwrap();
    (folder, study)
}

pub(crate) fn of(study: Study) -> Page {
    Page { study: Some(study), ..Page::default() }
}

/// A run of `steps` steps, with findings and samples.
pub(crate) fn write_run(folder: &Path, steps: usize) {
    std::fs::create_dir_all(folder).unwrap();
    let row = |step| {
        format!("{}\n", json!({"step": step, "loss": 1. / step as f64, "objective/kl": step}))
    };
    std::fs::write(folder.join("metrics.jsonl"), (1..=steps).map(row).collect::<String>()).unwrap();
    let finding =
        json!([{"step": 2, "symptom": "kl-runaway", "seen": "KL 9", "cause": "c", "advice": "a"}]);
    std::fs::write(folder.join("findings.json"), finding.to_string()).unwrap();
    let sample = |step: usize, prompt: &str| {
        format!(
            "{}\n",
            json!({"step": step, "prompt": prompt, "response": "<b>\u{202e}", "score": 0.5})
        )
    };
    let samples: String = [sample(1, "p"), sample(1, "q"), sample(2, "p"), sample(2, "q")].concat();
    std::fs::write(folder.join("samples.jsonl"), samples).unwrap();
    std::fs::write(folder.join("run.toml"), "seed = 1\n").unwrap();
}
