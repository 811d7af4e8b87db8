//! README and docs name only pages, files, code and run files that exist. (Their commands:
//! `commands`.)

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// README and every page, with their texts.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap().flatten().map(|entry| entry.path());
    docs.filter(|path| path.extension().is_some_and(|end| end == "md"))
        .chain([root().join("README.md")])
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn links_lead_somewhere_and_the_book_has_every_page() {
    for (page, text) in pages() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let link = link.split('#').next().unwrap_or_default();
            // A link to this repository on the web: the path in it.
            let of_ours = ["blob", "tree"].iter().find_map(|sort| {
                link.strip_prefix(&format!("https://github.com/rlaif/rlaif/{sort}/main/"))
            });
            let target = match of_ours {
                Some(path) => root().join(path),
                None if link.contains("://") || link.is_empty() => continue,
                None => page.parent().unwrap().join(link),
            };
            assert!(target.exists(), "{}: {link}", page.display());
        }
    }
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    for (page, _) in pages() {
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        let listed = summary.contains(&format!("({name})"));
        assert!(
            listed || name == "README.md" || name == "SUMMARY.md",
            "{name} is not in SUMMARY.md"
        );
    }
}

/// The characters of code that formatting does not change: without spaces, and without the commas
/// and comments that depend on line breaks.
fn essence(code: &str) -> String {
    let code: String = code
        .lines()
        .map(|line| format!(" {line}"))
        .map(|line| line.split(" //").next().unwrap_or("").to_owned())
        .collect();
    code.chars().filter(|c| !c.is_whitespace() && *c != ',').collect()
}

#[test]
fn the_rust_of_readme_and_docs_is_compiled_somewhere() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let compiled = [read("examples/tests/snippets.rs"), read("tests/downstream/build.rs")];
    let compiled = compiled.map(|code| essence(&code));
    let mut blocks = 0;
    for (page, text) in pages() {
        // The blocks of this page are doc tests of rlaif-rewards.
        if page.ends_with("rewards.md") {
            continue;
        }
        for block in text.split("\n```rust\n").skip(1) {
            let block = block.split("\n```").next().unwrap_or_default();
            let found = compiled.iter().any(|code| code.contains(&essence(block)));
            assert!(found, "{}: not in examples/tests/snippets.rs:\n{block}", page.display());
            blocks += 1;
        }
    }
    assert!(blocks > 5, "{blocks}");
}

/// The training run files in the docs are parsed completely: the only accepted error is that their
/// models and files do not exist. (Rewards and evaluations have tests of their own.)
#[test]
fn the_run_files_of_the_docs_are_run_files() {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("rlaif");
    if !program.exists() {
        eprintln!("SKIPPED: rlaif is not built (cargo test --workspace builds it)");
        return;
    }
    let blocks = |page: &str| -> Vec<String> {
        let text = fs::read_to_string(root().join("docs").join(page)).unwrap();
        let parts = text.split("\n```toml\n").skip(1);
        parts.map(|part| part.split("\n```").next().unwrap_or_default().to_owned()).collect()
    };
    let place = tempfile::tempdir().unwrap();
    let online = blocks("dpo.md").join("\n");
    for (name, command, file) in [
        ("ppo", "ppo", blocks("ppo.md").remove(0)),
        ("sft", "sft", blocks("training.md").remove(0)),
        ("dpo", "dpo", blocks("dpo.md").remove(0)),
        ("online", "dpo", online),
    ] {
        let config = place.path().join("run.toml");
        fs::write(&config, &file).unwrap();
        let mut run = Command::new(&program);
        run.current_dir(place.path()).arg(command).arg("--config").arg(&config);
        run.args(["--out", "out"]).env("HF_HUB_OFFLINE", "1").env("HF_HOME", place.path());
        let output = run.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let named = ["flan-t5-small", "train.jsonl", "roberta-hate"];
        assert!(!output.status.success(), "{name}");
        assert!(named.iter().any(|name| told.contains(name)), "{name}: {told}");
        for wrong in
            ["unknown key", "unknown value", "unknown field", "missing field", "invalid type"]
        {
            assert!(!told.contains(wrong), "{name}: {told}");
        }
    }
}
