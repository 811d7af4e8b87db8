//! `rlaif pipeline`.

use std::path::PathBuf;

use clap::Args;
use rlaif_run::{Pipeline as Stages, PipelineRequest};

use super::{error::CliError, print::print, run_arguments::one_process};

#[derive(Debug, Args)]
pub(crate) struct Pipeline {
    /// TOML that names the stages; docs/pipeline.md.
    file: PathBuf,
    /// The folder of stages and report; by default runs/NAME for a file NAME.toml.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Prints the plan, and runs nothing.
    #[arg(long)]
    dry_run: bool,
    /// Sets a key of the file: `--set stages.ppo.ppo.steps=10`. May be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Pipeline {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        one_process("pipeline")?;
        let request = PipelineRequest {
            file: self.file.clone(),
            out: self.out.clone(),
            set: self.set.clone(),
        };
        let pipeline = Stages::open(&request)?;
        for line in pipeline.plan() {
            print(format_args!("{line}"))?;
        }
        if self.dry_run {
            return Ok(());
        }
        pipeline.run()?;
        print(format_args!("{}", pipeline.folder().join("report.html").display()))
    }
}
