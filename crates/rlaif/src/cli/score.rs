//! `rlaif score`.

use clap::Args;
use rlaif_run::command;

use super::{error::CliError, model::AskedModel, prompt::PromptArguments, rows::RowArguments};

#[derive(Debug, Args)]
pub(crate) struct Score {
    #[command(flatten)]
    model: AskedModel,
    #[command(flatten)]
    rows: RowArguments,
    #[command(flatten)]
    form: PromptArguments,
}

impl Score {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let score = command::ScoreRows { how: self.form.rendering()? };
        self.rows.run(|rows| score.run(&self.model.choice(), rows))
    }
}
