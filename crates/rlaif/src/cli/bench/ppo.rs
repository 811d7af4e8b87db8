//! `rlaif bench ppo`.

use clap::Args;
use rlaif_run::command::bench;

use super::steps::RlSteps;
use crate::cli::error::CliError;

#[derive(Debug, Args)]
pub(crate) struct PpoBench {
    #[command(flatten)]
    shared: RlSteps,
    /// A classifier that scores the ids of responses. By default, scores are random.
    #[arg(long)]
    reward: Option<String>,
    /// Responses per optimizer step.
    #[arg(long, alias = "minibatch", default_value_t = 4)]
    minibatch_size: usize,
    /// Passes of an update over the rollout.
    #[arg(long, default_value_t = 4)]
    epochs: usize,
}

impl PpoBench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let bench = bench::PpoBench {
            shared: self.shared.steps(),
            reward: self.reward.clone(),
            minibatch_size: self.minibatch_size,
            epochs: self.epochs,
        };
        self.shared.output.print(&bench.run()?)
    }
}
