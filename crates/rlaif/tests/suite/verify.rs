//! `rlaif verify`: what it finds on models of each kind, and that a check can fail.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::Value;

use crate::{
    rl::command,
    support::{refusal, repository, rows},
};

/// The report of `rlaif verify --json`, and the names of its checks by verdict.
fn report(model: &Path, more: &[&str]) -> (Value, Vec<String>, Vec<String>) {
    let output = command(&["verify"]).arg(model).arg("--json").args(more).output().unwrap();
    let report = rows(&output).remove(0);
    let names = |applies: bool| {
        let checks = report["checks"].as_array().unwrap().iter();
        let chosen = checks.filter(|check| check["largest"].is_null() != applies);
        chosen.map(|check| check["name"].as_str().unwrap().to_owned()).collect()
    };
    (report.clone(), names(true), names(false))
}

#[test]
fn checks_hold_on_models_of_each_kind() {
    let policy = "sampler sampled_alone batch order padding packing shared_prompt repeated";
    let training = "first_ratio repeated_training resumed_training";
    for (model, applied, skipped) in [
        ("fixtures/models/llama3", format!("{policy} {training}"), String::new()),
        ("fixtures/models/gemma2", format!("{policy} {training}"), String::new()),
        (
            "fixtures/models/flan",
            format!("{} {training}", policy.replace(" packing", "")),
            "packing".into(),
        ),
        ("fixtures/models/roberta", "batch order padding repeated".into(), String::new()),
    ] {
        let (found, done, left) = report(&repository(model), &["--rows", "4", "--new-tokens", "6"]);
        assert_eq!((done.join(" "), left.join(" ")), (applied, skipped), "{model}");
        assert_eq!(found["holds"], true, "{found}");
        assert_eq!(found["dtype"], "f32");
    }
    // An adapter trains itself; without training its checks are left out.
    let base = repository("fixtures/models/llama3");
    let base = base.to_str().unwrap();
    let adapter = repository("fixtures/adapters/llama3-a");
    let (found, done, _) = report(&adapter, &["--base", base, "--rows", "2"]);
    assert!(found["holds"] == true && done.len() == 11, "{found}");
    let (_, _, left) = report(&adapter, &["--base", base, "--trained", "none"]);
    assert_eq!(left.join(" "), training);
}

#[test]
fn transformers_agrees_if_it_is_there() {
    let Some(python) = std::env::var_os("RLAIF_PYTHON") else { return };
    let python = python.to_str().unwrap();
    for model in ["llama3", "flan", "roberta"] {
        let model = repository("fixtures/models").join(model);
        let (found, done, _) = report(&model, &["--python", python, "--trained", "none"]);
        assert!(found["holds"] == true && done.contains(&"transformers".to_owned()), "{found}");
    }
}

#[test]
fn other_numbers_are_a_failure_and_a_python_without_transformers_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let python = |name: &str, script: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let model = repository("fixtures/models/roberta");
    let run = |python: &Path| {
        let program =
            command(&["verify"]).arg(&model).arg("--rows=2").arg("--python").arg(python).output();
        program.unwrap()
    };
    // One of the logits is far off.
    let wrong =
        python("wrong", r#"cat > /dev/null; echo '{"version": "0", "rows": [[9, 9], [9, 9]]}'"#);
    let output = run(&wrong);
    assert_eq!(output.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("FAILS    transformers") && shown.contains("holds    order"), "{shown}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("a check does not hold: transformers"), "{said}");
    for (script, problem) in [
        ("echo no module named torch >&2; exit 3", "exit status: 3: no module named torch"),
        ("echo hello", "its answer cannot be read"),
    ] {
        let output = run(&python("bad", script));
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(problem) && said.contains("name a Python"), "{said}");
    }
    let output = command(&["verify"]).arg(&model).arg("--rows=1").output().unwrap();
    assert!(refusal(&output, 2).contains("--rows"));
}
