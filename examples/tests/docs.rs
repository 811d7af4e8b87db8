//! README and docs name what there is: pages, files, commands and their options.

use std::collections::{BTreeMap, BTreeSet};
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
            // Of our own repository on the web: the path in it.
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

/// What stays the same however code is set: its characters without spaces, and without the commas and
/// comments that depend on where lines end.
fn essence(code: &str) -> String {
    let code: String =
        code.lines().map(|line| line.split(" //").next().unwrap_or("").trim_end()).collect();
    code.chars().filter(|c| !c.is_whitespace() && *c != ',').collect()
}

#[test]
fn the_rust_of_readme_and_docs_is_compiled_somewhere() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let compiled = [read("examples/tests/snippets.rs"), read("tests/downstream/build.rs")];
    let compiled = compiled.map(|code| essence(&code));
    let mut blocks = 0;
    for (page, text) in pages() {
        // Its blocks are doc tests of rlaif-rewards.
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

/// The lines of the shell blocks of a page, continued lines joined, comments left out.
fn commands(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let blocks = |sort: &str| -> Vec<String> {
        let start = format!("\n```{sort}\n");
        text.split(&start).skip(1).map(str::to_owned).collect()
    };
    for block in blocks("sh").into_iter().chain(blocks("console")) {
        let block = block.split("\n```").next().unwrap_or_default().replace("\\\n", " ");
        all.extend(
            block.lines().map(|line| line.split(" #").next().unwrap_or("").trim().to_owned()),
        );
    }
    all.retain(|line| !line.is_empty() && !line.starts_with('#'));
    all
}

#[test]
fn the_options_of_every_command_exist() {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let mut help = BTreeMap::<Vec<String>, String>::new();
    let mut checked = 0;
    for (page, text) in pages() {
        for command in commands(&text) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let after = |flag: &str| {
                words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1))
            };
            let mut behind =
                words.iter().position(|word| *word == "--").map_or(words.len(), |at| at + 1);
            let program: Vec<String> = if let Some(name) = after("--example") {
                vec![profile.join("examples").join(name).display().to_string()]
            } else if after("-p") == Some(&"rlaif") && words.get(1) == Some(&"run") {
                let mut program = vec![profile.join("rlaif").display().to_string()];
                let names = words[behind..].iter().take_while(|word| {
                    word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
                        && !word.starts_with('-')
                });
                let known = ["bench"];
                let count = match words.get(behind) {
                    Some(word) if known.contains(word) => 2,
                    _ => 1,
                };
                program.extend(names.take(count).map(|word| (*word).to_owned()));
                program
            } else if let Some(at) = words.iter().position(|word| *word == "rlaif") {
                behind = at + 2;
                let mut program = vec![profile.join("rlaif").display().to_string()];
                program.extend(words.get(at + 1).map(|word| (*word).to_owned()));
                program
            } else {
                continue;
            };
            if !Path::new(&program[0]).exists() {
                eprintln!("not built, so not checked: {command}");
                continue;
            }
            let options = words[behind..].iter().map(|word| word.trim_matches(['[', ']']));
            let mut options = options.filter(|word| word.starts_with("--")).peekable();
            if options.peek().is_none() {
                continue; // The program may take none, and know no --help.
            }
            let told = help.entry(program.clone()).or_insert_with(|| {
                let mut run = Command::new(&program[0]);
                let output = run.args(&program[1..]).arg("--help").output().unwrap();
                assert!(output.status.success(), "{}: {command}", page.display());
                String::from_utf8_lossy(&output.stdout).into_owned()
            });
            let known: BTreeSet<&str> = told
                .split(|c: char| c.is_whitespace() || matches!(c, ',' | '=' | '[' | ']'))
                .filter(|word| word.starts_with("--"))
                .collect();
            for option in options {
                let option = option.split('=').next().unwrap_or_default();
                assert!(known.contains(option), "{}: no {option} in `{command}`", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 0, "build the examples first: cargo test -p rlaif-examples");
}

/// The run files of trainings in the docs are read to their end: what is refused is that the models and
/// files which they name are not there. (Those of rewards and evaluations have tests of their own.)
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
