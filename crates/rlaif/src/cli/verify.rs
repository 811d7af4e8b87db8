//! `rlaif verify`.

use std::{num::NonZeroU32, path::PathBuf};

use clap::{Args, ValueEnum};
use rlaif_run::command::{CommandError, ModelChoice, Trained, Verification};
use serde_json::json;

use super::{error::CliError, model::Placement, print::print};

/// The weights that the checks of training train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TrainedWeights {
    /// LoRA adapters, or the adapter that MODEL is.
    Lora,
    /// All weights, which takes the memory of a full fine-tuning.
    All,
    /// None: the checks of training are left out.
    None,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Folder in Hugging Face's layout, or hub id, of a language model, a classifier or a LoRA
    /// adapter.
    model: String,
    /// Branch, tag or commit of a hub id.
    #[arg(long)]
    revision: Option<String>,
    /// Base of an adapter; by default, the base in its configuration.
    #[arg(long)]
    base: Option<String>,
    #[command(flatten)]
    placement: Placement,
    /// A Python with torch and transformers, to compare with.
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// The weights that the checks of training train.
    #[arg(long, value_enum, default_value_t = TrainedWeights::Lora)]
    trained: TrainedWeights,
    /// Rank of new LoRA adapters.
    #[arg(long, default_value = "8")]
    lora: NonZeroU32,
    /// Rows of random ids.
    #[arg(long, default_value_t = Verification::default().rows)]
    rows: usize,
    /// Tokens of the longest prompt.
    #[arg(long, default_value_t = Verification::default().prompt_len)]
    prompt_len: usize,
    /// Tokens per response.
    #[arg(long, default_value_t = Verification::default().new_tokens)]
    new_tokens: usize,
    /// Seed of ids, draws and new weights.
    #[arg(long, default_value_t = Verification::default().seed)]
    seed: u64,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let verification = Verification {
            rows: self.rows,
            prompt_len: self.prompt_len,
            new_tokens: self.new_tokens,
            seed: self.seed,
            trained: match self.trained {
                TrainedWeights::Lora => Trained::Lora(self.lora),
                TrainedWeights::All => Trained::All,
                TrainedWeights::None => Trained::Nothing,
            },
            python: self.python.clone(),
        };
        let choice = ModelChoice {
            revision: self.revision.clone(),
            base: self.base.clone(),
            ..self.placement.model(&self.model)
        };
        // A line at a time: a check of a large model takes a while.
        let mut printed = Ok(());
        let verified = verification.run(&choice, &mut |check| {
            if !self.json && printed.is_ok() {
                printed = print(check.to_text());
            }
        })?;
        printed?;
        let failed = verified.failed();
        if self.json {
            let mut object = json!(verified);
            object["holds"] = failed.is_empty().into();
            print(object)?;
        } else {
            print(verified.heading())?;
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(CommandError::NotExact { model: self.model.clone(), failed }.into())
    }
}
