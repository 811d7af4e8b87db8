//! The model of a command, and how it is loaded.

use rlaif_core::BadSetting;
use rlaif_lm::{Policy, SequenceClassifier};
use rlaif_models::{Classifier, LanguageModel, LoadOptions, ModelFiles, ModelNames, Quantization};
use rlaif_rewards::neural::ModelDtype;
use rlaif_torch::{DeviceChoice, TorchError};
use tch::Kind;

use super::error::CommandError;
use crate::{
    fetch::model_files,
    model::{tell_of_slow_dtype, tell_of_unread},
};

/// A model as the user names it, and how to load it.
#[derive(Debug, Clone)]
pub struct ModelChoice {
    /// Folder in Hugging Face's layout, or hub id. A LoRA adapter stands for its base model with the
    /// adapter.
    pub model: String,
    /// Branch, tag or commit of a hub id.
    pub revision: Option<String>,
    /// Folder or hub id of a LoRA adapter on the model.
    pub adapter: Option<String>,
    /// Base of the adapter in `model`; by default, the base named in its configuration.
    pub base: Option<String>,
    /// Device and dtype.
    pub loading: Loading,
}

/// Device, dtype and threads of a command.
#[derive(Debug, Clone, Copy)]
pub struct Loading {
    /// The device.
    pub device: DeviceChoice,
    /// Dtype of the weights; by default, that of the checkpoint.
    pub dtype: Option<ModelDtype>,
    /// The format of the linear layers of the trunk; by default, that of the checkpoint.
    pub quantization: Option<Quantization>,
    /// Number of threads; by default, that of libtorch.
    pub threads: Option<usize>,
}

impl Default for Loading {
    /// On the CPU, as the checkpoint stores the weights.
    fn default() -> Self {
        Self { device: DeviceChoice::Cpu, dtype: None, quantization: None, threads: None }
    }
}

impl Loading {
    /// Sets the number of threads, and returns the options for loading.
    ///
    /// # Errors
    /// [`CommandError::Setting`] for a number of threads out of range; [`CommandError::Run`] for a
    /// device that does not exist.
    pub fn options(&self) -> Result<LoadOptions, CommandError> {
        if let Some(threads) = self.threads {
            rlaif_torch::set_intra_op_threads(threads).map_err(|error| match error {
                TorchError::Setting(BadSetting { found, .. }) => CommandError::setting(
                    "threads",
                    found,
                    "at least 1, and a number that fits 31 bits",
                ),
                other => other.into(),
            })?;
        }
        let options = LoadOptions::new(self.device.resolve()?, self.dtype.map(Kind::from));
        Ok(LoadOptions { quantization: self.quantization, ..options })
    }
}

impl ModelChoice {
    /// The model of this name, on the CPU.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            revision: None,
            adapter: None,
            base: None,
            loading: Loading::default(),
        }
    }

    /// The local files; files of a hub repository are downloaded first.
    ///
    /// # Errors
    /// [`CommandError::Run`].
    pub fn files(&self) -> Result<ModelFiles, CommandError> {
        let Self { model, revision, adapter, base, .. } = self;
        let names = ModelNames {
            model,
            revision: revision.as_deref(),
            adapter: adapter.as_deref(),
            base: base.as_deref(),
        };
        Ok(model_files(&names)?)
    }

    /// The language model in these files; reports what it leaves unread, and a slow dtype.
    pub(super) fn language_model(&self, files: &ModelFiles) -> Result<LanguageModel, CommandError> {
        let policy = files.language_model(self.loading.options()?)?;
        tell_of_unread(&self.model, policy.unread());
        tell_of_slow_dtype(&self.model, policy.spec().kind, policy.spec().device);
        Ok(policy)
    }

    /// The classifier in these files, as [`Self::language_model`].
    pub(super) fn classifier(&self, files: &ModelFiles) -> Result<Classifier, CommandError> {
        let classifier = files.classifier(self.loading.options()?)?;
        tell_of_unread(&self.model, classifier.unread());
        tell_of_slow_dtype(&self.model, classifier.spec().kind, classifier.spec().device);
        Ok(classifier)
    }
}
