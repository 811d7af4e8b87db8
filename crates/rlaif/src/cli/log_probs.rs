//! `rlaif logprobs`.

use clap::Args;
use rlaif_run::command;

use super::{error::CliError, model::AskedModel, prompt::PromptArguments, rows::RowArguments};

#[derive(Debug, Args)]
pub(crate) struct LogProbs {
    #[command(flatten)]
    model: AskedModel,
    #[command(flatten)]
    rows: RowArguments,
    #[command(flatten)]
    form: PromptArguments,
    /// The sampling temperature that logits are divided by.
    #[arg(long, default_value_t = 1.)]
    temperature: f64,
}

impl LogProbs {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let how = self.form.rendering()?;
        let log_probs = command::LogProbRows { how, temperature: self.temperature };
        self.rows.run(|rows| log_probs.run(&self.model.choice(), rows))
    }
}
