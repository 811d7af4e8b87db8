//! `--model` and what goes with it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rlaif_core::BadSetting;
use rlaif_models::{Classifier, LanguageModel, LoadOptions, ModelFiles, ModelNames};
use rlaif_run::{model_files, tell_of_unread};
use rlaif_text::HfTokenizer;
use rlaif_torch::{DeviceChoice, TorchError};
use tch::Kind;

use super::error::CliError;

/// Which model, and how it is loaded.
#[derive(Debug, Args)]
pub(crate) struct ModelArguments {
    /// Folder in Hugging Face's layout, or hub id such as google/flan-t5-small; that of a LoRA adapter
    /// stands for its base with the adapter on it.
    #[arg(long)]
    pub(crate) model: String,
    /// Branch, tag or commit of a hub id.
    #[arg(long)]
    revision: Option<String>,
    /// Folder or hub id of a LoRA adapter on the model.
    #[arg(long)]
    adapter: Option<String>,
    /// Base of the adapter that --model names; by default the one that its configuration names.
    #[arg(long)]
    base: Option<String>,
    #[command(flatten)]
    pub(crate) placement: Placement,
}

impl ModelArguments {
    /// The files on this disk; from the hub, every one that loading needs is fetched first.
    pub(crate) fn files(&self) -> Result<ModelFiles, CliError> {
        let Self { model, revision, adapter, base, .. } = self;
        let names = ModelNames {
            model,
            revision: revision.as_deref(),
            adapter: adapter.as_deref(),
            base: base.as_deref(),
        };
        Ok(model_files(&names)?)
    }

    /// The language model.
    pub(crate) fn language_model(&self, files: &ModelFiles) -> Result<LanguageModel, CliError> {
        let policy = files.language_model(self.placement.options()?)?;
        tell_of_unread(&self.model, policy.unread());
        Ok(policy)
    }

    /// The classifier.
    pub(crate) fn classifier(&self, files: &ModelFiles) -> Result<Classifier, CliError> {
        let classifier = files.classifier(self.placement.options()?)?;
        tell_of_unread(&self.model, classifier.unread());
        Ok(classifier)
    }
}

/// Where a model runs, and in which kind.
#[derive(Debug, Args)]
pub(crate) struct Placement {
    /// cpu, cuda, cuda:N, or auto for CUDA where there is one.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Converts the weights; without it they stay as the checkpoint has them.
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Threads to compute with; libtorch's own choice if not given.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    F16,
}

impl Placement {
    /// Sets the threads, and says how to load.
    pub(crate) fn options(&self) -> Result<LoadOptions, CliError> {
        if let Some(threads) = self.threads {
            rlaif_torch::set_intra_op_threads(threads).map_err(|error| match error {
                TorchError::Setting(BadSetting { found, .. }) => {
                    let expected = "at least 1, and a number that fits 31 bits";
                    CliError::Flag { flag: "threads", found, expected }
                }
                other => other.into(),
            })?;
        }
        let kind = self.dtype.map(|dtype| match dtype {
            Dtype::F32 => Kind::Float,
            Dtype::Bf16 => Kind::BFloat16,
            Dtype::F16 => Kind::Half,
        });
        Ok(LoadOptions::new(self.device.resolve()?, kind))
    }
}

/// A model's folder on this disk; from the hub, every file that loading needs is fetched first.
pub(crate) fn folder(location: &str) -> Result<PathBuf, CliError> {
    Ok(rlaif_run::model_folder(location, None)?)
}

/// The tokenizer of a model, once it is known to fit.
pub(crate) fn tokenizer(files: &ModelFiles, vocab_size: i64) -> Result<HfTokenizer, CliError> {
    Ok(rlaif_run::tokenizer(files, vocab_size)?)
}
