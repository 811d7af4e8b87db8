//! Set-up, tests and checks of the workspace: `cargo xtask help`.

mod error;
mod install;
mod libtorch;
mod progress;
mod python;
mod requirement;
mod setup;

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, iter};

use error::Error;
use setup::Cuda;

const HELP: &str = "\
usage: cargo xtask COMMAND

  setup [--cuda]   find libtorch, or install it in .libtorch; --cuda: with CUDA, GPU or not
";

fn main() -> ExitCode {
    match run(env::args().skip(1).collect()) {
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

fn run(args: Vec<String>) -> Result<(), Error> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = root();
    match args[..] {
        ["setup"] => setup::run(&root, Cuda::Auto),
        ["setup", "--cuda"] => setup::run(&root, Cuda::Wanted),
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
