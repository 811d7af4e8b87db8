//! Tests in a headless browser, if there is one.

use std::{path::Path, process::Command};

use serde_json::Value;

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The browser; `None` without it, or without Node.
pub(crate) fn browser() -> Option<String> {
    let named = std::env::var("CHROMIUM").ok();
    let known = ["chromium", "chromium-browser", "google-chrome"].map(str::to_owned);
    let browser = named.into_iter().chain(known).find(|program| runs(program));
    let browser = browser.filter(|_| runs("node"));
    if browser.is_none() {
        eprintln!("skipped: it takes Node 20 and a Chromium (`CHROMIUM` names it)");
    }
    browser
}

/// Runs a script of this folder with a plan, which must hold in every point.
pub(crate) fn browse(browser: &str, script: &str, mut plan: Value) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    // axe-core's rules, where CI has installed them.
    let axe = own.join("../../target/axe/package/axe.min.js");
    plan["axe"] = serde_json::json!(axe.is_file().then_some(&axe));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plan.json");
    std::fs::write(&file, plan.to_string()).unwrap();
    let mut check = Command::new("node");
    check.arg(own.join("tests/browser").join(script)).arg(file).env("CHROMIUM", browser);
    // Pictures, for docs/people.md and for inspection.
    check.args(std::env::var_os("RLAIF_SCREENSHOTS"));
    let output = check.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failures: Vec<&str> = said.split("\nok ").filter(|line| line.contains("FAIL")).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", failures.join("\n"));
}
