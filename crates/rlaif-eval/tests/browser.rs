//! The pages in a headless browser, if there is one: `browser/check.mjs` does the checking.

use std::path::Path;

#[path = "browser/command.rs"]
mod browser;
#[allow(dead_code, reason = "an example, of which only the writing of pages is needed")]
#[path = "../examples/sample_report.rs"]
mod sample_report;

#[test]
fn the_pages_run_nothing_load_nothing_sort_and_fit_the_screen() {
    let folder = tempfile::tempdir().unwrap();
    sample_report::write(folder.path(), 300).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/check.mjs");
    let Some(output) = browser::run(&script, folder.path()) else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    let failures: Vec<&str> = said.lines().filter(|line| line.starts_with("FAIL")).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", failures.join("\n"));
}
