//! `rlaif judge`.

use clap::Args;
use rlaif_core::say;
use rlaif_run::{JudgeFile, JudgeSummary};
use rlaif_torch::DeviceChoice;

use super::{error::CliError, prompt::AskedArguments, work::WorkArguments};

/// The run file, and flags that override its keys.
#[derive(Debug, Args)]
pub(crate) struct Judge {
    #[command(flatten)]
    work: WorkArguments,
    /// JSON Lines with `prompt` and `response`; `-` reads standard input. By default, `data.file`.
    #[arg(long)]
    input: Option<String>,
    /// Device of rewards that run a model: cpu, cuda, cuda:N, or auto for CUDA if available. By default,
    /// `placement.device`, which is cpu for a file of a reward alone.
    #[arg(long)]
    device: Option<DeviceChoice>,
    #[command(flatten)]
    asked: AskedArguments,
}

impl Judge {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let flags = |file: &mut JudgeFile| {
            if let Some(input) = &self.input {
                file.data.file = Some(input.clone());
            }
            if let Some(device) = &self.device {
                file.placement.device = device.to_string();
            }
            self.asked.set(&mut file.prompt)
        };
        self.work.run_with::<JudgeFile>(flags, |summary, _| {
            let JudgeSummary { scored, missing, metrics, .. } = summary;
            say(format_args!("{scored} scored, {missing} without a score"));
            for (name, value) in metrics {
                say(format_args!("{name} {value}"));
            }
            Ok(())
        })
    }
}
