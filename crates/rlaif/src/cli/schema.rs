//! `rlaif schema`.

use clap::{Args, builder::PossibleValuesParser};
use rlaif_run::{commands_with_files, schema};

use super::{error::CliError, print::print};

#[derive(Debug, Args)]
pub(crate) struct SchemaCommand {
    /// The command that reads the file.
    #[arg(value_parser = PossibleValuesParser::new(commands_with_files()))]
    command: String,
}

impl SchemaCommand {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let schema = schema(&self.command).expect("the parser knows the commands with files");
        print(format_args!("{schema:#}"))
    }
}
