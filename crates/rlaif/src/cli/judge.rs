//! `rlaif judge`.

use std::{
    io::{self, BufReader, BufWriter},
    path::{Path, PathBuf},
};

use clap::Args;
use rlaif_core::say;
use rlaif_rewards::{RewardConfig, score_rows};
use rlaif_run::rewards_from_config;
use rlaif_torch::DeviceChoice;

use super::{error::CliError, rows::open};

#[derive(Debug, Args)]
pub(crate) struct Judge {
    /// TOML of a judge, or of any other reward; docs/rewards.md has the keys.
    #[arg(long)]
    config: PathBuf,
    /// JSON Lines with `prompt` and `response`; `-` reads standard input.
    #[arg(long)]
    input: PathBuf,
    /// cpu, cuda, cuda:N, or auto for CUDA where there is one: for rewards that run a model.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
}

impl Judge {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let (config, folder) = RewardConfig::from_file(&self.config)?;
        let reward = rewards_from_config(&config, &folder, self.device.resolve()?)?;
        let output = BufWriter::new(io::stdout().lock());
        let counted = if self.input == Path::new("-") {
            score_rows(&*reward, io::stdin().lock(), output)?
        } else {
            let (file, _) = open(&self.input)?;
            score_rows(&*reward, BufReader::new(file), output)?
        };
        say(format_args!("{} scored, {} without a score", counted.scored, counted.missing));
        for (name, value) in reward.metrics() {
            say(format_args!("{name} {value}"));
        }
        Ok(())
    }
}
