//! The pages in a headless browser, if there is one: `browser/check.mjs` does the checking.

use std::path::Path;
use std::process::Command;

#[allow(dead_code, reason = "an example, of which only the writing of pages is needed")]
#[path = "../examples/sample_report.rs"]
mod sample_report;

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn the_pages_run_nothing_load_nothing_sort_and_fit_the_screen() {
    let named = std::env::var("CHROMIUM").ok();
    let known = ["chromium", "chromium-browser", "google-chrome"].map(str::to_owned);
    let browser = named.into_iter().chain(known).find(|program| runs(program));
    let Some(browser) = browser.filter(|_| runs("node")) else {
        eprintln!("skipped: it takes Node 20 and a Chromium (`CHROMIUM` names it)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    sample_report::write(folder.path(), 300).unwrap();
    let mut check = Command::new("node");
    check.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/check.mjs"));
    check.arg(folder.path()).env("CHROMIUM", browser);
    // Pictures, for inspection.
    check.args(std::env::var_os("RLAIF_SCREENSHOTS"));
    let output = check.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failures: Vec<&str> = said.lines().filter(|line| line.starts_with("FAIL")).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", failures.join("\n"));
}
