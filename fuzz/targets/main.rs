//! A target for each reader: `cargo test -p rlaif-fuzz`, or `cargo xtask fuzz --minutes N [TARGET ..]`.
//!
//! By default each target reads its seeds, the inputs that were found earlier (`found/TARGET`) and a few
//! hundred mutated ones: the same ones everywhere.

mod answers;
mod data;
mod files;
mod models;
mod runs;
mod servers;
mod weights;
mod words;

use std::process::ExitCode;
use std::time::Duration;

use rlaif_fuzz::{Budget, Campaign, Target};

use crate::files::folder;
use crate::words::{JINJA, JSON, MATHS, PICKLE, TOML};

const TARGETS: &[Target] = &[
    Target { name: "config", words: JSON, seeds: models::configs, read: models::config },
    Target {
        name: "generation-config",
        words: JSON,
        seeds: models::generation_configs,
        read: models::generation,
    },
    Target { name: "tokenizer", words: JSON, seeds: models::tokenizers, read: models::tokenizer },
    Target {
        name: "tokenizer-config",
        words: JSON,
        seeds: models::tokenizer_configs,
        read: models::tokenizer_config,
    },
    Target {
        name: "sentencepiece",
        words: &[],
        seeds: models::pieces,
        read: models::sentencepiece,
    },
    Target {
        name: "merges", words: &[" ", "Ġ"], seeds: models::merges, read: models::merges_file
    },
    Target {
        name: "chat-template",
        words: JINJA,
        seeds: models::templates,
        read: models::template,
    },
    Target {
        name: "safetensors",
        words: JSON,
        seeds: weights::safetensors,
        read: weights::weights,
    },
    Target { name: "pickle", words: PICKLE, seeds: weights::pickles, read: weights::pickle },
    Target { name: "gguf", words: &["GGUF"], seeds: weights::ggufs, read: weights::gguf },
    Target { name: "index", words: JSON, seeds: weights::indices, read: weights::index },
    Target { name: "peft", words: JSON, seeds: weights::adapters, read: weights::adapter },
    Target { name: "json-lines", words: JSON, seeds: data::lines, read: data::rows },
    Target {
        name: "csv",
        words: &[",", "\"", "\"\"", "\n"],
        seeds: data::tables,
        read: data::rows,
    },
    Target { name: "parquet", words: &["PAR1"], seeds: data::parquets, read: data::rows },
    Target { name: "gzip", words: &["\u{1f}"], seeds: data::gzips, read: data::rows },
    Target { name: "zstd", words: &["("], seeds: data::zstds, read: data::rows },
    Target { name: "run-file", words: TOML, seeds: runs::run_files, read: runs::run_file },
    Target { name: "reward-file", words: TOML, seeds: runs::reward_files, read: runs::reward_file },
    Target {
        name: "constitution",
        words: JSON,
        seeds: runs::constitutions,
        read: runs::constitution,
    },
    Target { name: "checkpoint", words: JSON, seeds: runs::checkpoints, read: runs::checkpoint },
    Target { name: "run-folder", words: JSON, seeds: runs::metrics, read: runs::run_folder },
    Target {
        name: "judge-answer",
        words: MATHS,
        seeds: answers::answers,
        read: answers::judge_answer,
    },
    Target { name: "mathematics", words: MATHS, seeds: answers::mathematics, read: answers::maths },
    Target {
        name: "instructions",
        words: JSON,
        seeds: answers::instructions,
        read: answers::instruction,
    },
    Target { name: "json-schema", words: JSON, seeds: answers::schemas, read: answers::schema },
    Target {
        name: "pattern",
        words: &["(?", "(", ")*", "{1000}", "\\p{L}", "[^"],
        seeds: answers::patterns,
        read: answers::pattern,
    },
    Target {
        name: "judge-http",
        words: &["HTTP/1.1 ", "\r\n", "{\"choices\":"],
        seeds: servers::replies,
        read: servers::judge_http,
    },
    Target {
        name: "hub-http",
        words: &["HTTP/1.1 ", "\r\n", "ETag: "],
        seeds: servers::hub_replies,
        read: servers::hub_http,
    },
    Target {
        name: "output",
        words: &["\u{1b}[", "\u{202e}", "\u{200b}"],
        seeds: answers::texts,
        read: answers::output,
    },
];

fn main() -> ExitCode {
    let mut budget = Budget::Inputs(100);
    let (mut seed, mut names) = (0, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok());
        match argument.as_str() {
            "--minutes" => budget = Budget::Time(Duration::from_mins(number().unwrap_or(1))),
            "--seconds" => budget = Budget::Time(Duration::from_secs(number().unwrap_or(1))),
            "--inputs" => budget = Budget::Inputs(number().unwrap_or(100)),
            "--seed" => seed = number().unwrap_or(0),
            // Flags that `cargo test` passes to every test.
            flag if flag.starts_with('-') => {}
            name => names.push(name.to_owned()),
        }
    }
    // Panics are counted; those of libraries that are caught are errors.
    std::panic::set_hook(Box::new(|_| ()));
    let chosen = |target: &&Target| names.is_empty() || names.iter().any(|n| n == target.name);
    let mut failed = false;
    println!("{:18} {:>9} {:>9} {:>11}  panics", "target", "inputs", "outcomes", "slowest ms");
    for target in TARGETS.iter().filter(chosen) {
        let campaign = Campaign { target: *target, found: &folder().join("found"), seed };
        match campaign.run(budget) {
            Ok(report) => {
                let (name, panics) = (target.name, report.panics.len());
                let slowest = report.slowest.as_millis();
                println!(
                    "{name:18} {:>9} {:>9} {slowest:>11}  {panics}",
                    report.inputs, report.outcomes
                );
                failed |= panics > 0;
            }
            Err(error) => {
                println!("{}: {error}", target.name);
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
