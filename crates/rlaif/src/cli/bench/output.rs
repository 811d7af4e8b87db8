//! Flags of all benches: the form of the result, and activations.

use clap::{Args, ValueEnum};
use rlaif_run::command::bench::Measured;

use crate::cli::{error::CliError, print::print};

/// The form of a bench's result.
#[derive(Debug, Args)]
pub(super) struct Output {
    /// Prints one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl Output {
    pub(super) fn print(&self, measured: &Measured) -> Result<(), CliError> {
        if self.json { print(measured.to_json()) } else { print(measured.to_text()) }
    }
}

/// Activations of `--activations`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Activations {
    Keep,
    Recompute,
}

impl From<Activations> for rlaif_lm::Activations {
    fn from(activations: Activations) -> Self {
        match activations {
            Activations::Keep => Self::Keep,
            Activations::Recompute => Self::Recompute,
        }
    }
}
