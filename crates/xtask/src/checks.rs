//! `cargo xtask demo`, `test`, `check`, `docs` and `bench-smoke`.

use std::fs;
use std::path::Path;

use cargo_metadata::{Metadata, TargetKind};

use crate::error::Error;
use crate::python::write_error;
use crate::run::Run;
use crate::{arrows, circles, claims, deny, english, names};

/// Packages outside the workspace, as other projects would have them: a model, and an algorithm, of
/// one's own.
const DOWNSTREAM: [&str; 2] = ["downstream", "reinforce"];

/// The workspace and its dependencies, for all platforms, so that checks have the same result
/// everywhere.
fn metadata(root: &Path) -> Result<Metadata, Error> {
    Run::new(root, "cargo metadata --format-version 1 --locked").metadata()
}

/// The main example, on the built-in models. `args` go to it. It is built with the profile and the
/// features of the tests, so that nothing is built twice. A run takes about a tenth longer than in release:
/// libtorch, the C++ kernels and all dependencies are optimised in both profiles.
pub(crate) fn demo(root: &Path, args: &[&str]) -> Result<(), Error> {
    Run::new(root, "cargo build --workspace --example hh_toxicity").run()?;
    let binary = metadata(root)?.target_directory.join("debug/examples/hh_toxicity");
    // Directly, and without the search path that `cargo run` sets.
    let run = Run::new(root, "env -u LD_LIBRARY_PATH").args([binary.as_str()]);
    run.args(args.iter().copied()).run()
}

/// All tests, then projects that depend on ours. `args` go to `cargo test`.
pub(crate) fn test(root: &Path, args: &[&str]) -> Result<(), Error> {
    Run::new(root, "cargo test --workspace").args(args.iter().copied()).run()?;
    DOWNSTREAM.iter().try_for_each(|name| downstream(root, name))
}

fn downstream(root: &Path, name: &str) -> Result<(), Error> {
    let target = metadata(root)?.target_directory;
    let project = root.join("tests").join(name);
    // The versions that the workspace was tested with; cargo removes those that are not needed.
    let lock = project.join("Cargo.lock");
    fs::copy(root.join("Cargo.lock"), &lock).map_err(|e| write_error(&project, e))?;
    Run::new(root, &format!("cargo build --manifest-path tests/{name}/Cargo.toml"))
        .env("CARGO_TARGET_DIR", target.as_str())
        .run()?;
    // Directly, and without the search path that `cargo run` sets.
    let binary = target.join("debug").join(name);
    Run::new(root, "env -u LD_LIBRARY_PATH").args([binary.as_str()]).run()
}

/// Everything that is checked without running the code.
pub(crate) fn check(root: &Path) -> Result<(), Error> {
    Run::new(root, "cargo fmt --all --check").run()?;
    for name in DOWNSTREAM {
        let manifest = format!("--manifest-path tests/{name}/Cargo.toml");
        Run::new(root, &format!("cargo fmt {manifest} --check")).run()?;
    }
    let workspace = metadata(root)?;
    eprintln!(
        "arrows of the architecture, circles of modules, names of types, tests of SECURITY.md, English \
         of the documentation"
    );
    arrows::check(root, &workspace)?;
    circles::check(root)?;
    names::check(root)?;
    claims::check(root)?;
    english::check(root)?;
    deny::check(root, &workspace)?;

    let lint = |what: &str| Run::new(root, what).args(["--", "-D", "warnings"]).run();
    lint("cargo clippy --workspace --all-targets")?;
    for package in workspace.workspace_packages() {
        // `doc-only` builds nothing that links; it is checked below.
        let features = package.features.keys().map(String::as_str);
        let features: Vec<_> = features.filter(|f| !matches!(*f, "default" | "doc-only")).collect();
        if !features.is_empty() {
            let (name, features) = (&package.name, features.join(","));
            lint(&format!("cargo clippy -p {name} --all-targets --features {features}"))?;
            lint(&format!("cargo clippy -p {name} --all-targets --no-default-features"))?;
        }
    }
    Run::new(root, KEY_TABLES).args(["keys_in_prose"]).run()?;
    let document = |what: &str| Run::new(root, what).env("RUSTDOCFLAGS", "-D warnings");
    document("cargo doc --workspace --no-deps").run()?;
    let members = workspace.workspace_packages().into_iter();
    for package in members.filter(|p| p.features.contains_key("doc-only")) {
        // As docs.rs does it: on a machine without libtorch.
        document(&format!("cargo doc -p {} --no-deps --features doc-only", package.name))
            .env("LIBTORCH", "/nonexistent")
            .env("CARGO_TARGET_DIR", workspace.target_directory.join("doc-only").as_str())
            .without("LIBTORCH_USE_PYTORCH")
            .run()?;
    }
    Ok(())
}

/// The test that compares the tables of keys in docs/ with the types of run files. It runs with the
/// features of the whole workspace, so nothing is built again. `check` adds the test of keys in prose.
const KEY_TABLES: &str = "cargo test -q --workspace --test run_files -- the_tables_of_keys";

/// Writes what `check` compares with the code.
pub(crate) fn docs(root: &Path) -> Result<(), Error> {
    arrows::write(root, &metadata(root)?)?;
    english::lower(root)?;
    Run::new(root, KEY_TABLES).env("RLAIF_WRITE_DOCS", "1").run()
}

/// Gives mutated inputs to the readers, in the profile and with the features of the tests.
pub(crate) fn fuzz(root: &Path, args: &[&str]) -> Result<(), Error> {
    let run = Run::new(root, "cargo test -q --workspace --test fuzz --");
    run.args(args.iter().copied()).run()
}

/// Runs each benchmark once, in the profile of the tests: do they still work?
pub(crate) fn bench_smoke(root: &Path) -> Result<(), Error> {
    let workspace = metadata(root)?;
    let targets = workspace.workspace_packages().into_iter().flat_map(|package| &package.targets);
    let benches = targets.filter(|target| target.kind.contains(&TargetKind::Bench));
    let benches = benches.flat_map(|bench| ["--bench", &bench.name]);
    // The whole workspace, though its other packages have none: it has the features that the tests
    // were built with, so nothing is built again.
    Run::new(root, "cargo test --workspace").args(benches).run()
}
