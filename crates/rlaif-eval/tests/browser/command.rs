//! Scripts that check pages in a headless Chromium, for the tests of this crate and of `rlaif-ui`.

use std::path::Path;
use std::process::{Command, Output};

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Runs a script with this argument. `None`, after a note on it, without Node or a Chromium.
pub(crate) fn run(script: &Path, argument: &Path) -> Option<Output> {
    let named = std::env::var("CHROMIUM").ok();
    let known = ["chromium", "chromium-browser", "google-chrome"].map(str::to_owned);
    let browser = named.into_iter().chain(known).find(|program| runs(program));
    let Some(browser) = browser.filter(|_| runs("node")) else {
        eprintln!("skipped: it takes Node 20 and a Chromium (`CHROMIUM` names it)");
        return None;
    };
    let mut check = Command::new("node");
    check.arg(script).arg(argument).env("CHROMIUM", browser);
    // Pictures, for inspection.
    check.args(std::env::var_os("RLAIF_SCREENSHOTS"));
    Some(check.output().unwrap())
}
