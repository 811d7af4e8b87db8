//! The flags of a stream of rows.

use std::{
    io::{self, BufWriter},
    path::PathBuf,
};

use clap::Args;
use rlaif_run::command::{CommandError, RowStream};

use super::{error::CliError, progress::StreamBars};

/// The input rows, and the batch size.
#[derive(Debug, Args)]
pub(crate) struct RowArguments {
    /// JSON Lines; `-` reads standard input.
    #[arg(long)]
    input: PathBuf,
    /// Rows per batch.
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
}

impl RowArguments {
    pub(crate) fn new(input: PathBuf, batch_size: usize) -> Self {
        Self { input, batch_size }
    }

    /// Runs a command over the input; results go to standard output, progress to standard error.
    pub(crate) fn run(
        &self,
        command: impl FnOnce(RowStream<'_>) -> Result<(), CommandError>,
    ) -> Result<(), CliError> {
        let mut bars = StreamBars::default();
        let rows = RowStream {
            input: &self.input,
            batch_size: self.batch_size,
            output: &mut BufWriter::new(io::stdout().lock()),
            progress: &mut |at| bars.show(at),
        };
        command(rows)?;
        Ok(())
    }
}
