//! `rlaif bench reinforce`.

use clap::Args;
use rlaif_reinforce::NamedAlgorithm;
use rlaif_run::command::bench;

use super::steps::RlSteps;
use crate::cli::error::CliError;

#[derive(Debug, Args)]
pub(crate) struct ReinforceBench {
    #[command(flatten)]
    shared: RlSteps,
    /// The algorithm, by its name in run files; without dynamic sampling.
    #[arg(long, default_value = "grpo", value_parser = algorithm)]
    algorithm: NamedAlgorithm,
    /// Responses to each prompt.
    #[arg(long, default_value_t = 4)]
    group_size: usize,
    /// Responses per optimizer step; 0 for all responses of the step.
    #[arg(long, alias = "minibatch", default_value_t = 0)]
    minibatch_size: usize,
    /// Passes of an update over the rollout.
    #[arg(long, default_value_t = 1)]
    epochs: usize,
}

fn algorithm(name: &str) -> Result<NamedAlgorithm, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}

impl ReinforceBench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let bench = bench::ReinforceBench {
            shared: self.shared.steps(),
            algorithm: self.algorithm,
            group_size: self.group_size,
            minibatch_size: self.minibatch_size,
            epochs: self.epochs,
        };
        self.shared.output.print(&bench.run()?)
    }
}
