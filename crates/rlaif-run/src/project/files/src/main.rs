//! The `rlaif` command with the reward of this project: `cargo run -- --help`.

mod reward;

use std::process::ExitCode;

use reward::Brevity;

fn main() -> ExitCode {
    // Run files name it: kind = "own", name = "brevity".
    rlaif::rewards::register("brevity", Brevity::new).expect("the name is registered once");
    rlaif::cli::main()
}
