//! Set-up, tests and checks of the workspace: `cargo xtask help`.

mod arrows;
mod checks;
mod circles;
mod claims;
mod deny;
mod english;
mod error;
mod install;
mod libtorch;
mod links;
mod names;
mod progress;
mod python;
mod requirement;
mod run;
mod rust;
mod setup;

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, iter};

use error::Error;
use libtorch::Cuda;

const HELP: &str = "\
usage: cargo xtask COMMAND

  setup [--cuda]   find libtorch, or install it in .libtorch; --cuda: one with CUDA, GPU or not
  demo [ARGS]      setup, then the main example, `hh_toxicity ARGS`
  test [ARGS]      setup, all tests (`cargo test --workspace ARGS`), a project that depends on ours
  check            setup, format, documentation against code, dependencies, clippy, rustdoc
  docs             setup, writes what `check` compares: arrows, counts of phrases, tables of keys
  bench-smoke      setup, each benchmark once
  fuzz [ARGS]      setup, mutated inputs for each reader: --minutes N, --seconds N or --inputs N
                   for each, --seed N, and names of readers
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ Error::Usage(_)) => {
            eprint!("error: {error}\n\n{HELP}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<(), Error> {
    let root = root();
    match *args {
        ["setup"] => setup::run(&root, Cuda::Auto),
        ["setup", "--cuda"] => setup::run(&root, Cuda::Wanted),
        ["demo", ref rest @ ..] => {
            setup::run(&root, Cuda::Auto)?;
            checks::demo(&root, rest)
        }
        ["test", ref rest @ ..] => {
            setup::run(&root, Cuda::Auto)?;
            checks::test(&root, rest)
        }
        ["check"] => {
            setup::run(&root, Cuda::Auto)?;
            checks::check(&root)
        }
        ["docs"] => {
            setup::run(&root, Cuda::Auto)?;
            checks::docs(&root)
        }
        ["fuzz", ref rest @ ..] => {
            setup::run(&root, Cuda::Auto)?;
            checks::fuzz(&root, rest)
        }
        ["bench-smoke"] => {
            setup::run(&root, Cuda::Auto)?;
            checks::bench_smoke(&root)
        }
        ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        [] => Err(Error::Usage("no command".to_owned())),
        _ => Err(Error::Usage(format!("unknown: {}", args.join(" ")))),
    }
}

/// The root of the workspace, which cargo tells when it runs this program.
fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    let package = PathBuf::from(package);
    iter::successors(Some(package.as_path()), |dir| dir.parent()).nth(2).unwrap_or(&package).into()
}
