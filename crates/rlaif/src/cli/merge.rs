//! `rlaif merge`.

use std::path::PathBuf;

use clap::Args;
use rlaif_core::say;
use rlaif_run::command::MergeAdapter;

use super::{error::CliError, model::Placement};

#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// Folder or hub id of a LoRA adapter.
    adapter: String,
    /// The folder to write.
    #[arg(long)]
    out: PathBuf,
    /// Branch, tag or commit of a hub id.
    #[arg(long)]
    revision: Option<String>,
    /// Folder or hub id of the adapter's base; by default, the base in its configuration.
    #[arg(long)]
    base: Option<String>,
    #[command(flatten)]
    placement: Placement,
}

impl Merge {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let Self { adapter, out, revision, base, placement } = self;
        let (adapter, revision, base) = (adapter.clone(), revision.clone(), base.clone());
        MergeAdapter { adapter, revision, base, loading: placement.loading() }.run(out)?;
        say(format_args!("the merged model is in {}", out.display()));
        Ok(())
    }
}
