//! A project of `rlaif new`, on the program that it has: the example `new_project` is its `src/main.rs`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rlaif::run::{NewProject, ProjectKind};
use serde_json::Value;

/// The project's program, which cargo builds before it runs these tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let profile = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    profile.join("examples").join("new_project")
}

fn project(place: &Path, kind: ProjectKind) -> PathBuf {
    let folder = place.join(format!("brief-{}", kind.command()));
    let rlaif = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    NewProject { folder: folder.clone(), kind, rlaif }.write().unwrap();
    folder
}

fn run(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new(program());
    command.current_dir(folder).args(arguments.split(' '));
    // Tests run in parallel; idle threads of one would slow down the others.
    command.env("OMP_NUM_THREADS", "1").output().expect("the program is built")
}

fn succeeds(folder: &Path, arguments: &str) -> String {
    let output = run(folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The score that the project's reward gives with `words = 12`.
fn score(response: &str) -> f64 {
    -0.1 * response.split_whitespace().count().abs_diff(12) as f64
}

fn small(section: &str) -> String {
    let sets = ["steps=1", "batch_size=4", "generation.max_new_tokens=16"];
    sets.map(|set| format!(" --set {section}.{set}")).concat()
}

#[test]
fn ppo_scores_responses_by_the_projects_reward_and_eval_compares_by_it() {
    let place = tempfile::tempdir().unwrap();
    let folder = project(place.path(), ProjectKind::Ppo);
    let sets = small("ppo") + " --set ppo.minibatch_size=4";
    succeeds(&folder, &format!("ppo --config ppo.toml{sets}"));
    let samples = rows(&folder.join("runs/ppo/samples.jsonl"));
    assert_eq!(samples.len(), 4);
    for sample in samples {
        let found = sample["score"].as_f64().unwrap();
        assert!((found - score(sample["response"].as_str().unwrap())).abs() < 1e-5, "{sample}");
    }
    let eval = "eval --config eval.toml --out runs/eval --set data.take=4 --set generation.max_new_tokens=16";
    assert!(succeeds(&folder, eval).contains("brevity"));
}

#[test]
fn reinforce_scores_responses_by_the_projects_reward() {
    let place = tempfile::tempdir().unwrap();
    let folder = project(place.path(), ProjectKind::Reinforce);
    succeeds(&folder, &format!("reinforce --config reinforce.toml{}", small("reinforce")));
    let samples = rows(&folder.join("runs/reinforce/samples.jsonl"));
    assert!(!samples.is_empty());
    for sample in samples {
        let found = sample["score"].as_f64().unwrap();
        assert!((found - score(sample["response"].as_str().unwrap())).abs() < 1e-5, "{sample}");
    }
}

#[test]
fn dpo_and_a_reward_model_learn_from_the_projects_pairs() {
    let place = tempfile::tempdir().unwrap();
    let folder = project(place.path(), ProjectKind::Dpo);
    succeeds(&folder, "dpo --config dpo.toml --set train.steps=1");
    assert!(folder.join("runs/dpo/model/model.safetensors").exists());

    let folder = project(place.path(), ProjectKind::Reward);
    succeeds(&folder, "reward --config reward.toml --set train.steps=1");
    // As the README says.
    let told = succeeds(&folder, "exam --config exam.toml --out runs/exam");
    assert!(told.contains("preferred and brief"), "{told}");
}

#[test]
fn settings_that_the_projects_reward_does_not_have_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let folder = project(place.path(), ProjectKind::Ppo);
    for (set, says) in [
        ("reward.settings={words=0}", "reward `brevity`: `words` is 0; expected at least 1"),
        ("reward.settings={word=3}", "did you mean `words`?"),
        ("reward.name=brevty", "did you mean `brevity`?"),
    ] {
        let refused = run(&folder, &format!("ppo --config ppo.toml --set {set}"));
        let told = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{told}");
        assert!(told.contains(says), "{set}: {told}");
        assert!(!folder.join("runs").exists());
    }
}

#[test]
fn the_manifest_names_the_crates_of_the_checkout() {
    let place = tempfile::tempdir().unwrap();
    let folder = project(place.path(), ProjectKind::Ppo);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let package = &found["packages"][0];
    assert_eq!(package["name"], "brief-ppo");
    let paths =
        package["dependencies"].as_array().unwrap().iter().filter_map(|one| one["path"].as_str());
    let paths: Vec<_> = paths.collect();
    assert_eq!(paths.len(), 2, "{package}");
    for path in paths {
        assert!(Path::new(path).join("Cargo.toml").exists(), "{path}");
    }
}
