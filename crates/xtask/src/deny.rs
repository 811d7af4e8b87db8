//! Rules for dependencies, applied by cargo-deny: licences, versions, sources and advisories.

use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::Metadata;

use crate::error::Error;
use crate::run::Run;

/// The cargo-deny that `deny.toml` is written for.
const VERSION: &str = "0.20.2";

/// Applies `deny.toml` to the dependencies of the workspace.
///
/// Advisories are in a separate database, which is fetched each time. If that fails, the check
/// reports it and continues: a network failure does not make the code worse.
pub(crate) fn check(root: &Path, metadata: &Metadata) -> Result<(), Error> {
    let deny = cargo_deny(root, metadata.target_directory.as_std_path())?;
    let deny = |args: &str| Run::of(root, &deny, &format!("--locked {args}"));
    deny("check --deny unmatched-skip licenses bans sources").run()?;
    match deny("fetch db").run() {
        Ok(()) => deny("check --disable-fetch advisories").run(),
        Err(Error::Failed { .. }) => {
            eprintln!("{NOT_CHECKED}");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

const NOT_CHECKED: &str = "\
warning: NOT CHECKED: security advisories (RustSec), whose database could not be fetched (see above).
         Licences, versions and sources of the dependencies were checked. With a way to the database:
         cargo xtask check";

/// The program: one on PATH of the required version, or one that is installed only for this
/// workspace.
fn cargo_deny(root: &Path, target: &Path) -> Result<PathBuf, Error> {
    let on_path = PathBuf::from("cargo-deny");
    if is_ours(&on_path) {
        return Ok(on_path);
    }
    let tools = target.join("tools");
    let installed = tools.join("bin/cargo-deny");
    if is_ours(&installed) {
        return Ok(installed);
    }
    // It runs for seconds, so it is compiled quickly rather than well.
    Run::new(root, &format!("cargo install cargo-deny --version ={VERSION} --locked --root"))
        .args([&*tools.to_string_lossy()])
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .run()?;
    Ok(installed)
}

fn is_ours(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| output.stdout == format!("cargo-deny {VERSION}\n").into_bytes())
}
