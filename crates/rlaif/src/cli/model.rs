//! `--model` and the related flags.

use clap::{Args, ValueEnum};
use rlaif_core::{BadSetting, TextCodec, say};
use rlaif_lm::{Policy, SequenceClassifier};
use rlaif_models::{Classifier, LanguageModel, LoadOptions, ModelFiles, ModelNames};
use rlaif_run::{model_files, tell_of_slow_dtype, tell_of_unread};
use rlaif_text::HfTokenizer;
use rlaif_torch::{DeviceChoice, TorchError};
use tch::Kind;

use super::error::{CliError, RowProblem};

/// The model, and the options for loading it.
#[derive(Debug, Args)]
pub(crate) struct ModelArguments {
    /// Folder in Hugging Face's layout, or hub id such as google/flan-t5-small. A LoRA adapter
    /// stands for its base model with the adapter.
    #[arg(long)]
    pub(crate) model: String,
    /// Branch, tag or commit of a hub id.
    #[arg(long)]
    revision: Option<String>,
    /// Folder or hub id of a LoRA adapter on the model.
    #[arg(long)]
    adapter: Option<String>,
    /// Base of the adapter named by --model; by default, the base named in its configuration.
    #[arg(long)]
    base: Option<String>,
    #[command(flatten)]
    pub(crate) placement: Placement,
}

impl ModelArguments {
    /// The local files; files of a hub repository are downloaded first.
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
        tell_of_slow_dtype(&self.model, policy.spec().kind, policy.spec().device);
        Ok(policy)
    }

    /// The classifier.
    pub(crate) fn classifier(&self, files: &ModelFiles) -> Result<Classifier, CliError> {
        let classifier = files.classifier(self.placement.options()?)?;
        tell_of_unread(&self.model, classifier.unread());
        tell_of_slow_dtype(&self.model, classifier.spec().kind, classifier.spec().device);
        Ok(classifier)
    }
}

/// Device and dtype of a model.
#[derive(Debug, Args)]
pub(crate) struct Placement {
    /// cpu, cuda, cuda:N, or auto: CUDA if available.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Dtype of the weights; by default, that of the checkpoint.
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Number of threads; by default, that of libtorch.
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
    /// Sets the number of threads, and returns the options for loading.
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

/// The local folder of a model; from the hub, all files that loading needs are downloaded first.
pub(crate) fn files(location: &str) -> Result<ModelFiles, CliError> {
    Ok(model_files(&ModelNames { model: location, ..ModelNames::default() })?)
}

/// The tokenizer of a model, after checking that it fits: needed only for rows of text.
pub(crate) struct RowTokenizer(Result<HfTokenizer, CliError>);

impl RowTokenizer {
    pub(crate) fn new(files: &ModelFiles, vocab_size: i64) -> Self {
        Self(rlaif_run::tokenizer(files, vocab_size).map_err(CliError::from))
    }

    /// The tokenizer, where nothing can be done without one.
    pub(crate) fn needed(self) -> Result<HfTokenizer, CliError> {
        self.0
    }

    /// The same, or an error if there is no tokenizer.
    pub(crate) fn required(self) -> Result<Self, CliError> {
        self.needed().map(|tokenizer| Self(Ok(tokenizer)))
    }

    /// The tokenizer, if there is one.
    pub(crate) fn known(&self) -> Option<&HfTokenizer> {
        self.0.as_ref().ok()
    }

    /// The tokenizer of a row that holds text.
    pub(crate) fn of_text(&self) -> Result<&HfTokenizer, RowProblem> {
        self.0.as_ref().map_err(|reason| RowProblem::NoTokenizer {
            problem: "the row holds text",
            reason: reason.to_string(),
        })
    }

    /// Prints its notices on standard error.
    pub(crate) fn tell_notices(&self) {
        self.known().into_iter().for_each(tell_notices);
    }
}

/// Prints the notices of a tokenizer on standard error.
pub(crate) fn tell_notices(tokenizer: &HfTokenizer) {
    for notice in tokenizer.take_notices() {
        say(format_args!("{notice}"));
    }
}
