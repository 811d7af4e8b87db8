//! The `rlaif` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    rlaif::cli::main()
}
