//! Tests in a headless browser, if there is one.

#[path = "../../../rlaif-eval/tests/browser/command.rs"]
mod command;

use std::path::Path;

use serde_json::Value;

/// Runs a script of this folder with a plan, which must hold in every point, and returns its output; `None` without a
/// browser.
pub(crate) fn browse(script: &str, mut plan: Value) -> Option<String> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    // axe-core's rules, where CI has installed them.
    let axe = own.join("../../target/axe/package/axe.min.js");
    plan["axe"] = serde_json::json!(axe.is_file().then_some(&axe));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plan.json");
    std::fs::write(&file, plan.to_string()).unwrap();
    let output = command::run(&own.join("tests/browser").join(script), &file)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let failures: Vec<&str> = said.split("\nok ").filter(|line| line.contains("FAIL")).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", failures.join("\n"));
    Some(said.into_owned())
}
