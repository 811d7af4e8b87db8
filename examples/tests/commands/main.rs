//! Every command of every page is run: here, as its reader would type it, or by the test that the
//! table in `table.rs` names. Pages run in parallel; the commands of one page run in order, in one
//! shell.

mod cargo;
#[path = "../judge_server/mod.rs"]
mod judge_server;
mod page;
mod place;
mod table;
#[path = "../tiny_hub/mod.rs"]
mod tiny_hub;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use page::Page;
use place::Place;
use table::{How, TABLE};

/// Results of earlier work that a command of a page relies on.
const BEFORE: &[(&str, &str, &str)] = &[
    (
        "docs/evaluation.md",
        "rlaif report runs/ppo",
        "for run in ppo seed-1 seed-2 seed-3 kl-0.02 kl-0.1; do mkdir -p runs/$run; \
         cp runs/eval/report.json runs/$run; done; cp -r runs/eval FOLDER",
    ),
    // Different names, since the folder of the built-in models exists.
    (
        "docs/performance.md",
        "target/new/bin/python benches/peers/generate_gpu.py",
        "ln -sfn t5-small target/peers/t5-base; ln -sfn llama-small target/peers/llama-1b",
    ),
];

/// Reports a skipped command with the reason; fails if everything must run, as in CI.
fn skip(what: &str, why: &str) {
    eprintln!("SKIPPED {what}: {why}");
    assert!(std::env::var_os("RLAIF_SKIP_NOTHING").is_none(), "{what}: {why}");
}

/// Runs the commands of a page that no other test runs.
fn run(name: &str) {
    if !place::built().join("rlaif").exists() {
        skip(name, "rlaif is not built (cargo test --workspace builds it)");
        return;
    }
    let page = Page::read(name);
    let script = script(&page);
    if script.is_empty() {
        return;
    }
    let folder = if name == "fixtures/models/README.md" { "fixtures/models" } else { "." };
    let output = Place::of(&page).run(&format!("set -euo pipefail\n{script}"), folder);
    let told = String::from_utf8_lossy(&output.stderr);
    // For `-- --nocapture`: the duration of each.
    told.lines()
        .filter(|line| line.starts_with("+ line "))
        .for_each(|line| println!("{name} {line}"));
    assert!(output.status.success(), "{name}: {}\n{told}", String::from_utf8_lossy(&output.stdout));
}

/// The commands of a page as lines for a shell, each with the options that the table appends.
fn script(page: &Page) -> String {
    let mut script = String::new();
    let requirements = match page.name.as_str() {
        "fixtures/models/README.md" => "fixtures/models/requirements.txt",
        _ => "benches/peers/requirements.txt",
    };
    let lacks = place::python_lacks(requirements);
    for command in page.commands() {
        let plain = command.plain();
        let more = match table::find(&plain) {
            Some((_, How::With(more))) => more,
            Some(_) => continue,
            None if command.inline && is_a_name(&plain) => "--help",
            None => "",
        };
        // Without Python, the checkpoints that it makes are missing too.
        let calls_python = ["python", "target/peers"].iter().any(|part| plain.contains(part));
        if let (true, Some(lacks)) = (calls_python, &lacks) {
            skip(&format!("`{plain}`"), lacks);
            continue;
        }
        let before =
            BEFORE.iter().find(|(name, start, _)| *name == page.name && plain.starts_with(start));
        let mut typed = command.typed.clone();
        if std::env::var_os("RLAIF_OLD_PYTHON").is_none() {
            typed = table::OLD_PEERS.iter().fold(typed, |typed, peer| typed.replace(peer, ""));
        }
        let at = command.line;
        writeln!(script, "{}", before.map_or("", |(_, _, prepare)| *prepare)).unwrap();
        writeln!(script, "echo '+ line {at}, with {more} after' $SECONDS s >&2").unwrap();
        // Without this, the shell would continue after a failure of the first of two commands
        // joined by `&&`.
        writeln!(script, "export MORE='{more}'\n{typed}\n[ $? = 0 ] || exit").unwrap();
    }
    script
}

/// `true` for the bare name of a command, `rlaif red-team` or `rlaif bench ppo`, which prints its help.
fn is_a_name(plain: &str) -> bool {
    let name = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    };
    match *plain.split(' ').collect::<Vec<_>>() {
        ["rlaif", command] | ["rlaif", "bench", command] => name(command),
        _ => false,
    }
}

macro_rules! pages {
    ($($test:ident: $page:literal,)*) => {
        const PAGES: &[&str] = &[$($page),*];
        $(#[test]
        fn $test() {
            run($page);
        })*
    };
}

pages! {
    architecture: "docs/architecture.md",
    concepts: "docs/concepts.md",
    contributing: "CONTRIBUTING.md",
    data: "docs/data.md",
    distillation: "docs/distillation.md",
    dpo: "docs/dpo.md",
    evaluation: "docs/evaluation.md",
    extending: "docs/extending.md",
    feedback: "docs/feedback.md",
    generation: "docs/generation.md",
    getting_started: "docs/getting-started.md",
    gpu: "docs/gpu.md",
    peers: "benches/peers/README.md",
    people: "docs/people.md",
    performance: "docs/performance.md",
    pipeline: "docs/pipeline.md",
    ppo: "docs/ppo.md",
    readme: "README.md",
    reinforce: "docs/reinforce.md",
    results: "docs/results.md",
    scale: "docs/scale.md",
    set_up: "docs/setup.md",
    reliability: "docs/reliability.md",
    style: "docs/style.md",
    rewards: "docs/rewards.md",
    models: "docs/models.md",
    the_fixtures: "fixtures/models/README.md",
    the_llama: "models/summary-llama/README.md",
    the_t5: "models/summary-t5/README.md",
    the_bert: "models/toxicity-bert/README.md",
    the_roberta: "models/toxicity-roberta/README.md",
    training: "docs/training.md",
    trl: "docs/trl.md",
    troubleshooting: "docs/troubleshooting.md",
    example_of_a_reward: "examples/custom_reward.rs",
    example_of_a_calculator: "examples/calculator_tool.rs",
    example_of_dpo: "examples/dpo_preferences.rs",
    example_of_less_toxicity: "examples/hh_toxicity/main.rs",
    example_of_grpo: "examples/grpo_digits.rs",
    example_of_a_game: "examples/guessing_game.rs",
    example_of_ppo: "examples/ppo_minimal.rs",
    example_of_sentiment: "examples/sentiment_gpt2.rs",
    example_of_the_models: "examples/train_builtin_models/main.rs",
    example_of_a_reward_model: "examples/train_reward_model.rs",
}

#[test]
fn every_page_with_commands_is_run_and_the_table_names_what_is_there() {
    let mut used = BTreeSet::new();
    for name in page::all() {
        let page = Page::read(&name);
        page.check_that_none_escapes();
        for command in page.commands() {
            let plain = command.plain();
            let row = table::find(&plain);
            if let Some((pattern, how)) = row {
                used.insert(pattern);
                table::check(&plain, how);
            }
            let runs_here = matches!(row, None | Some((_, How::With(_))));
            let run = !runs_here || PAGES.contains(&name.as_str());
            assert!(run, "{name}:{}: `{plain}` is run by nothing", command.line);
            if let Some(cargo) = cargo::Cargo::parse(&plain) {
                cargo.check();
            }
        }
    }
    let stale: Vec<&str> =
        TABLE.iter().map(|row| row.0).filter(|pattern| !used.contains(pattern)).collect();
    assert!(stale.is_empty(), "in the table, and on no page: {stale:?}");
}
