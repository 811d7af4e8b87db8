//! Models that a configuration names.

use rlaif_core::{ChatOptions, Metadata};
use rlaif_models::{AnswerBatch, ModelFiles, ModelNames, Quantization};
use rlaif_torch::DeviceChoice;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use super::classifier::{ClassifierOptions, Input, LabelChoice, NOT_HATE_MODEL, Output, Preset};
use crate::ProviderError;
use crate::demand::ExamDemand;

/// Finds the files of a model by its names. Its error is [`ProviderError::model_folder`].
pub type FindModel<'a> = dyn Fn(&ModelNames<'_>) -> Result<ModelFiles, ProviderError> + 'a;

/// The kind of a model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelDtype {
    /// 32 bits.
    F32,
    /// 16 bits, with the range of 32.
    Bf16,
    /// 16 bits.
    F16,
}

impl From<ModelDtype> for Kind {
    fn from(dtype: ModelDtype) -> Self {
        match dtype {
            ModelDtype::F32 => Self::Float,
            ModelDtype::Bf16 => Self::BFloat16,
            ModelDtype::F16 => Self::Half,
        }
    }
}

/// A model that a configuration runs in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalModel<'a> {
    /// The names of the model.
    pub names: ModelNames<'a>,
    /// `cpu`, `cuda`, `cuda:N` or `auto`; by default, that of the run.
    pub device: Option<&'a str>,
    /// The dtype of the weights; by default, that of the checkpoint.
    pub dtype: Option<ModelDtype>,
    /// The format of the linear layers of the trunk; by default, that of the checkpoint.
    pub quantization: Option<Quantization>,
    /// The copies of the weights in memory.
    pub copies: Copies,
    /// The answers that it generates together, if it generates.
    pub answers: Option<AnswerBatch>,
}

impl LocalModel<'_> {
    /// The device of the model in a run on this one.
    ///
    /// # Errors
    /// [`ProviderError::Torch`] for a device that is not there.
    pub fn on(&self, run: Device) -> Result<Device, ProviderError> {
        match self.device {
            Some(name) => Ok(name.parse::<DeviceChoice>().and_then(DeviceChoice::resolve)?),
            None => Ok(run),
        }
    }
}

/// The copies of a model's weights that several parts of a configuration have in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// One that all parts with the same weights share.
    Shared,
    /// One for each part.
    Own,
}

/// A configured [`crate::ClassifierReward`]: which model, and how it becomes a reward.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierConfig {
    /// Folder or hub id; by default, that of the preset.
    pub model: Option<String>,
    /// Branch, tag or commit of a hub id.
    pub revision: Option<String>,
    /// Folder or hub id of a LoRA adapter on the model; `model` may also be an adapter itself.
    pub adapter: Option<String>,
    /// Base of the adapter in `model`; by default, the base in its configuration.
    pub base: Option<String>,
    /// A preset of settings, whose values other keys override.
    pub preset: Option<Preset>,
    /// Name in metrics and errors; by default, the label's name.
    pub name: Option<String>,
    /// The label for the score, by name or index; by default, the only one.
    pub label: Option<LabelChoice>,
    /// The form of the score; `logit` by default.
    pub output: Option<Output>,
    /// Input of the classifier; `response` by default.
    pub input: Option<Input>,
    /// Text between prompt and response, if they form one text; empty by default.
    pub separator: Option<String>,
    /// The name of the model's chat template, where its tokenizer has several.
    pub chat_template: Option<String>,
    /// Variables of the model's chat template.
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    pub chat_template_kwargs: Metadata,
    /// The most tokens of a row; the model's limit by default.
    pub max_tokens: Option<usize>,
    /// Maximum number of rows per batch; 32 by default.
    pub batch_size: Option<usize>,
    /// `cpu`, `cuda`, `cuda:N` or `auto`; by default, that of the run.
    pub device: Option<String>,
    /// The dtype of the weights; by default, that of the checkpoint.
    pub dtype: Option<ModelDtype>,
    /// The grade without which no training with this reward starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exam: Option<Box<ExamDemand>>,
}

impl ClassifierConfig {
    /// Every setting that may name a folder on this disk.
    pub fn locations(&mut self) -> Vec<&mut String> {
        let Self {
            model,
            revision: _,
            adapter,
            base,
            preset: _,
            name: _,
            label: _,
            output: _,
            input: _,
            separator: _,
            chat_template: _,
            chat_template_kwargs: _,
            max_tokens: _,
            batch_size: _,
            device: _,
            dtype: _,
            exam,
        } = self;
        let exam = exam.as_mut().map(|exam| &mut exam.file);
        model.iter_mut().chain(adapter).chain(base).chain(exam).collect()
    }

    /// The model; `None` without `model` and `preset`.
    pub fn local_model(&self) -> Option<LocalModel<'_>> {
        let model = match (&self.model, self.preset) {
            (Some(model), _) => model.as_str(),
            (None, Some(Preset::NotHate | Preset::Hate)) => NOT_HATE_MODEL,
            (None, None) => return None,
        };
        let names = ModelNames {
            model,
            revision: self.revision.as_deref(),
            adapter: self.adapter.as_deref(),
            base: self.base.as_deref(),
        };
        let (device, dtype) = (self.device.as_deref(), self.dtype);
        Some(LocalModel {
            names,
            device,
            dtype,
            quantization: None,
            copies: Copies::Shared,
            answers: None,
        })
    }

    /// The settings of the reward, without those of its model.
    pub(crate) fn options(&self) -> ClassifierOptions {
        let mut options =
            self.preset.map_or_else(ClassifierOptions::new, ClassifierOptions::preset);
        if let Some(name) = &self.name {
            options = options.name(name);
        }
        if let Some(label) = &self.label {
            options = options.label(label.clone());
        }
        if let Some(output) = self.output {
            options = options.output(output);
        }
        if let Some(input) = self.input {
            options = options.input(input);
        }
        if let Some(separator) = &self.separator {
            options = options.separator(separator);
        }
        let (template, kwargs) = (self.chat_template.clone(), self.chat_template_kwargs.clone());
        options = options.chat(ChatOptions { template, kwargs, ..ChatOptions::default() });
        if let Some(tokens) = self.max_tokens {
            options = options.max_tokens(tokens);
        }
        if let Some(rows) = self.batch_size {
            options = options.batch_size(rows);
        }
        options
    }
}
