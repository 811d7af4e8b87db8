//! `rlaif judge`.

use std::{
    io::{self, BufReader, BufWriter},
    path::{Path, PathBuf},
};

use clap::Args;
use rlaif_core::say;
use rlaif_rewards::{ReadRows, RewardConfig, RewardInput, read_rows, score_in_order};
use rlaif_run::{any_scored, command::open, rewards_for_file, rewards_from_config, score_into};
use rlaif_torch::DeviceChoice;

use super::{error::CliError, kept::keeping, prompt::AskedArguments};

#[derive(Debug, Args)]
pub(crate) struct Judge {
    /// TOML of a judge, or of any other reward; docs/rewards.md has the keys.
    #[arg(long)]
    config: PathBuf,
    /// JSON Lines with `prompt` and `response`; `-` reads standard input.
    #[arg(long)]
    input: PathBuf,
    /// The file for the verdicts, instead of standard output. Verdicts are first written to
    /// OUT.unordered as they arrive; at the end, OUT has them in the order of the rows. After an
    /// interruption, the same command continues.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Device of rewards that run a model: cpu, cuda, cuda:N, or auto for CUDA if available.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    #[command(flatten)]
    asked: AskedArguments,
}

impl Judge {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let how = self.asked.rendering()?;
        let (config, folder) = RewardConfig::from_file(&self.config)?;
        let device = self.device.resolve()?;
        let reward = match &self.out {
            Some(out) => rewards_for_file(&config, &folder, device, out)?,
            None => rewards_from_config(&config, &folder, device)?,
        };
        let columns = config.columns();
        let ReadRows { rows, unread } = if self.input == Path::new("-") {
            read_rows(io::stdin().lock(), &how, &columns)?
        } else {
            read_rows(BufReader::new(open(&self.input)?.0), &how, &columns)?
        };
        if config.input() != RewardInput::Messages {
            unread.sentences("rewards").iter().for_each(say);
        }
        let counted = keeping(self.out.as_ref().map(|_| "verdicts"), || match &self.out {
            Some(out) => score_into(&config, &*reward, &rows, out),
            None => Ok(score_in_order(&*reward, &rows, BufWriter::new(io::stdout().lock()))?),
        })?;
        say(format_args!("{} scored, {} without a score", counted.scored, counted.missing));
        for (name, value) in reward.metrics() {
            say(format_args!("{name} {value}"));
        }
        any_scored(&counted)?;
        Ok(())
    }
}
