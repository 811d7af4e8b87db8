//! `rlaif inspect`.

use clap::Args;
use rlaif_models::ModelNames;
use rlaif_run::command::Inspection;
use serde_json::json;

use super::{error::CliError, print::print};

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Folder in Hugging Face's layout, or hub id, of a model or of a LoRA adapter.
    model: String,
    /// Branch, tag or commit of a hub id.
    #[arg(long)]
    revision: Option<String>,
    /// Base of an adapter; by default, the base in its configuration.
    #[arg(long)]
    base: Option<String>,
}

impl Inspect {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let inspection = Inspection::of(&ModelNames {
            model: &self.model,
            revision: self.revision.as_deref(),
            adapter: None,
            base: self.base.as_deref(),
        })?;
        print(format_args!("{:#}", json!(inspection)))
    }
}
