//! `[model]`: the model, its device, and its adapter.

use std::{num::NonZeroU32, path::Path};

use rlaif_core::{BadSetting, say};
use rlaif_lm::Policy;
use rlaif_models::{
    ADAPTER, AdapterBase, CheckpointError, Classifier, ConvertError, Initialisation, LanguageModel,
    LoadOptions, Lora, LoraVariant, ModelError, ModelFiles, ModelNames, ModuleNames, NewRows,
    NewRowsInit, PolicySetup, Quantization, TargetModules, TrainedBiases, VocabularySize,
};
use rlaif_rewards::neural::tokenizer_folder;
use rlaif_text::HfTokenizer;
use rlaif_torch::{DeviceChoice, TorchError};
use rlaif_train::{LearnConfig, Precision, Trainable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::{error::RunError, fetch::model_files, vocabulary::tokenizer_of};

/// Device, threads and memory of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// `cpu`, `cuda`, `cuda:N`, or `auto` for CUDA if available.
    pub device: String,
    /// Number of threads; 0 for libtorch's default. Two runs are bitwise equal only with the same
    /// number.
    pub threads: usize,
    /// Memory limit of the run, in GiB; by default, the free memory of the device. A run that needs
    /// more is refused at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_gib: Option<f64>,
}

impl Default for Placement {
    fn default() -> Self {
        Self { device: "auto".to_owned(), threads: 0, memory_gib: None }
    }
}

/// A model to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// Folder in Hugging Face's layout, or hub id. If it is a LoRA adapter, training continues with
    /// it.
    pub path: String,
    /// Branch, tag or commit of a hub id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Folder or hub id of a LoRA adapter on the model; training continues with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Base of the adapter in `path`; by default, the base in its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The dtype of the weights during training.
    #[serde(default)]
    pub dtype: Precision,
    /// Keeps the weights of linear layers, except for heads, in 4 or 8 bits; an adapter is trained on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
    /// Adds rows for tokens that only the tokenizer has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<VocabularySection>,
    /// Trains a LoRA adapter instead of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSection>,
}

/// Rows of the embeddings and the head for tokens that only the tokenizer has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VocabularySection {
    /// The values of new rows.
    pub init: NewRowsInit,
    /// The seed of `init = "normal"`.
    pub seed: u64,
    /// The number of rows becomes a multiple of this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_to_multiple_of: Option<NonZeroU32>,
}

impl VocabularySection {
    /// The size for a tokenizer with ids below `rows`.
    fn size(self, rows: usize) -> VocabularySize {
        let Self { init, seed, pad_to_multiple_of } = self;
        let new_rows = match init {
            NewRowsInit::Mean => NewRows::Mean,
            NewRowsInit::Normal => NewRows::Normal { seed },
        };
        VocabularySize { rows, pad_to_multiple_of, new_rows }
    }
}

/// A LoRA adapter to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSection {
    /// Rank r of the adapter.
    pub rank: u32,
    /// α; the adapter's output is scaled by α / r.
    pub alpha: f64,
    /// Dropout of the adapter's input, in updates with dropout.
    pub dropout: f64,
    /// The layers with an adapter.
    pub targets: LoraTargets,
    /// LoRA, or DoRA: each output of a layer has a trained magnitude.
    pub variant: LoraVariant,
    /// The factors at the start of training.
    pub init: LoraInit,
    /// Biases that are trained with the factors.
    pub bias: LoraBias,
    /// Modules that are trained as a whole and written with the adapter, such as `embed_tokens` and `lm_head`.
    pub modules_to_save: Vec<String>,
}

/// The factors of a LoRA adapter at the start of training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LoraInit {
    /// One of the two is zero.
    #[default]
    Zero,
    /// The largest singular values of each weight.
    Pissa,
    /// The first columns of each weight's QR factorisation.
    Olora,
}

/// Biases that a LoRA adapter trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoraBias {
    /// None of them.
    #[default]
    None,
    /// Biases of the layers with an adapter.
    LoraOnly,
}

/// Layers of a LoRA adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LoraTargets {
    /// `all-linear`, or a regular expression over module paths.
    Pattern(String),
    /// Suffixes of module paths, such as `q_proj`.
    Names(Vec<String>),
}

impl Default for LoraSection {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.,
            dropout: 0.,
            targets: LoraTargets::Pattern("all-linear".to_owned()),
            variant: LoraVariant::Lora,
            init: LoraInit::Zero,
            bias: LoraBias::None,
            modules_to_save: Vec::new(),
        }
    }
}

impl LoraSection {
    /// The rank, after a check of every number's range.
    pub(crate) fn check(&self) -> Result<NonZeroU32, RunError> {
        /// Larger than any layer, and small enough to count its weights.
        const MOST: u32 = 65_536;
        if self.rank > MOST {
            let expected = format!("at most {MOST}");
            return Err(BadSetting::new("model.lora.rank", self.rank, expected).into());
        }
        let refuse = |field: &'static str, found: String, expected: &'static str| {
            RunError::from(BadSetting::new(field, found, expected).within("model.lora"))
        };
        if !self.alpha.is_finite() {
            return Err(refuse("alpha", self.alpha.to_string(), "a finite number"));
        }
        if !(0. ..1.).contains(&self.dropout) {
            let expected = "a probability of at least 0 and below 1";
            return Err(refuse("dropout", self.dropout.to_string(), expected));
        }
        NonZeroU32::new(self.rank)
            .ok_or_else(|| refuse("rank", self.rank.to_string(), "at least 1"))
    }

    /// The adapter on this base model.
    fn adapter(&self, base: &str) -> Result<Lora, RunError> {
        Ok(Lora {
            name: ADAPTER.to_owned(),
            rank: self.check()?,
            alpha: self.alpha,
            dropout: self.dropout,
            targets: match &self.targets {
                LoraTargets::Pattern(name) if name == "all-linear" => TargetModules::AllLinear,
                LoraTargets::Pattern(pattern) => {
                    TargetModules::Named(ModuleNames::Pattern(pattern.clone()))
                }
                LoraTargets::Names(names) => {
                    TargetModules::Named(ModuleNames::Suffixes(names.clone()))
                }
            },
            variant: self.variant,
            init: match self.init {
                LoraInit::Zero => Initialisation::Zero,
                LoraInit::Pissa => Initialisation::Pissa,
                LoraInit::Olora => Initialisation::Olora,
            },
            bias: match self.bias {
                LoraBias::None => TrainedBiases::Absent,
                LoraBias::LoraOnly => TrainedBiases::OfLora,
            },
            modules_to_save: self.modules_to_save.clone(),
            base: Some(base.to_owned()),
        })
    }

    /// Converts an error of the adapter's configuration to one of its key.
    fn named(&self, error: ModelError) -> RunError {
        let setting = |key: &'static str, found: String, expected: String| {
            RunError::from(BadSetting::new(key, found, expected).within("model.lora"))
        };
        match error {
            ModelError::Checkpoint(CheckpointError::Pattern { pattern, source, .. }) => setting(
                "targets",
                format!("the pattern `{pattern}`"),
                format!("a regular expression that can be used ({source})"),
            ),
            ModelError::NoTarget { field: "modules_to_save", targets, layers } => setting(
                "modules_to_save",
                format!(
                    "{targets}, which is not a layer of this model that can be trained as a whole"
                ),
                format!("names of its layers, which end in: {}", layers.join(", ")),
            ),
            ModelError::NoTarget { targets, layers, .. } => setting(
                "targets",
                format!("{targets}, which matches no linear layer of this model"),
                format!("names of its layers, which end in: {}", layers.join(", ")),
            ),
            ModelError::AdapterStart { init, layer, .. } => setting(
                "init",
                format!("{init}, with which `{layer}` cannot begin"),
                "`zero`, a smaller rank, or targets without embeddings".to_owned(),
            ),
            ModelError::Torch(source) => {
                setting("rank", self.rank.to_string(), format!("a smaller rank ({source})"))
            }
            other => other.into(),
        }
    }
}

impl Placement {
    /// Sets the threads, and resolves the device.
    ///
    /// # Errors
    /// [`RunError::Torch`], [`RunError::Setting`].
    pub fn options(&self, dtype: Precision) -> Result<LoadOptions, RunError> {
        Ok(LoadOptions::new(self.device()?, dtype.kind()))
    }

    /// Sets the threads, and resolves the device.
    ///
    /// # Errors
    /// As [`Placement::options`].
    pub(crate) fn device(&self) -> Result<Device, RunError> {
        if let Some(gib) = self.memory_gib.filter(|gib| !(gib.is_finite() && *gib > 0.)) {
            let expected = "a positive number";
            return Err(BadSetting::new("placement.memory_gib", gib, expected).into());
        }
        if self.threads > 0 {
            rlaif_torch::set_intra_op_threads(self.threads).map_err(|error| -> RunError {
                match error {
                    TorchError::Setting(BadSetting { found, expected, .. }) => {
                        BadSetting::new("placement.threads", found, expected).into()
                    }
                    other => other.into(),
                }
            })?;
        }
        Ok(self.device.parse::<DeviceChoice>()?.resolve()?)
    }
}

/// Converts a refused conversion to an error of its key.
pub(crate) fn converted(key: &'static str, error: ConvertError) -> RunError {
    match error {
        ConvertError::Model(error) => error.into(),
        ConvertError::Labels { .. } => RunError::Convert { key: "labels", source: error },
        source => RunError::Convert { key, source },
    }
}

/// The tokenizer of a model, after a check that it fits: the adapter's, if the adapter has one.
///
/// # Errors
/// [`RunError::Text`]; [`RunError::Vocabulary`] if it has ids beyond the model's embedding.
pub fn tokenizer(files: &ModelFiles, vocab_size: i64) -> Result<HfTokenizer, RunError> {
    let tokenizer = tokenizer_of(files)?;
    let rows = tokenizer.embedding_rows();
    if i64::try_from(rows).is_ok_and(|rows| rows > vocab_size) {
        return Err(RunError::Vocabulary {
            folder: tokenizer_folder(files).display().to_string(),
            largest: rows - 1,
            rows: vocab_size,
        });
    }
    Ok(tokenizer)
}

/// Reports the tensors of a model's files that are not used.
pub fn tell_of_unread(name: &str, unread: &[String]) {
    /// A longer list would not help.
    const NAMED: usize = 5;
    if unread.is_empty() {
        return;
    }
    let more = unread.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let named: Vec<&str> = unread.iter().take(NAMED).map(String::as_str).collect();
    say(format_args!(
        "{name}: not read, because the model has no use for them: {}{more}",
        named.join(", ")
    ));
}

/// Warns of a dtype that is slow on the model's device: f16 on a CPU, which has no kernels for it.
pub fn tell_of_slow_dtype(name: &str, kind: Kind, device: Device) {
    if device == Device::Cpu && kind == Kind::Half {
        say(format_args!(
            "warning: {name}: f16 is several times slower than f32 on a CPU; bf16 is not, and takes as little memory"
        ));
    }
}

impl ModelSection {
    /// The model's files, downloaded from the hub for a hub id.
    ///
    /// # Errors
    /// [`RunError::Fetch`]; [`RunError::Setting`] for a new adapter on an adapter.
    pub fn files(&self) -> Result<ModelFiles, RunError> {
        let Self { path, revision, adapter, base, .. } = self;
        let files = model_files(&ModelNames {
            model: path,
            revision: revision.as_deref(),
            adapter: adapter.as_deref(),
            base: base.as_deref(),
        })?;
        if let (Some(adapter), Some(_)) = (&files.adapter, &self.lora) {
            let adapter = adapter.display();
            let expected = format!(
                "no table, because this adapter is trained further; for a new one on top, merge it \
                 first (`rlaif merge {adapter} --out DIR`)"
            );
            let found = format!("given beside the adapter {adapter}");
            return Err(BadSetting::new("model.lora", found, expected).into());
        }
        if let (Some(how), None, None) = (self.quantization, &files.adapter, &self.lora) {
            let found = format!("{}, without an adapter", how.name());
            let expected = "a table `[model.lora]` or `model.adapter` beside it: weights in 4 or 8 bits are frozen";
            return Err(BadSetting::new("model.quantization", found, expected).into());
        }
        Ok(files)
    }

    /// The options for loading this model.
    ///
    /// # Errors
    /// [`RunError::Fetch`], [`RunError::Text`] for the tokenizer whose tokens get rows.
    pub(crate) fn options(&self, options: LoadOptions) -> Result<LoadOptions, RunError> {
        let quantization = self.quantization.or(options.quantization);
        Ok(LoadOptions { quantization, ..self.with_vocabulary(options)? })
    }

    /// The options for loading a model that reads the ids of this one.
    ///
    /// # Errors
    /// As [`Self::options`].
    pub(crate) fn with_vocabulary(&self, options: LoadOptions) -> Result<LoadOptions, RunError> {
        let Some(section) = self.vocabulary else { return Ok(options) };
        let rows = tokenizer_of(&self.files()?)?.embedding_rows();
        Ok(LoadOptions { vocabulary: Some(section.size(rows)), ..options })
    }

    /// The base that the adapter of this section is to name, as another folder finds it.
    pub(crate) fn adapter_base(&self, files: &ModelFiles) -> Result<AdapterBase, RunError> {
        let Self { path, revision, adapter, base, lora, .. } = self;
        if lora.is_some() || adapter.is_some() {
            return Ok(AdapterBase { model: path.clone(), revision: revision.clone() });
        }
        if let Some(base) = base {
            return Ok(AdapterBase { model: base.clone(), revision: None });
        }
        let named = files.adapter.as_deref().map(ModelFiles::base_of).transpose()?.flatten();
        // As `model_files` finds it: from the current folder, or else from the adapter's.
        let of_adapter = |name: &str| match (&files.adapter, Path::new(name)) {
            (Some(adapter), path) if !path.is_dir() => adapter.join(path),
            (_, path) => path.to_owned(),
        };
        let here = || files.folder.canonicalize().unwrap_or_else(|_| files.folder.clone());
        Ok(match named {
            Some(named) if of_adapter(&named.model).is_dir() => {
                AdapterBase { model: here().display().to_string(), revision: None }
            }
            Some(named) => named,
            None => AdapterBase { model: here().display().to_string(), revision: None },
        })
    }

    /// Policy, adapter and reference of a run.
    ///
    /// # Errors
    /// [`RunError::Fetch`]; [`RunError::Setting`] for the adapter.
    pub fn setup(&self, options: LoadOptions) -> Result<PolicySetup, RunError> {
        let lora = self.lora.as_ref().map(|lora| lora.adapter(&self.path)).transpose()?;
        Ok(PolicySetup { lora, ..PolicySetup::new(self.files()?, self.options(options)?) })
    }

    /// Loads a language model with its adapter, if it has one. A new adapter is drawn from
    /// libtorch's generator.
    ///
    /// # Errors
    /// [`RunError::Model`], [`RunError::Setting`].
    pub fn language_model(&self, options: LoadOptions) -> Result<LanguageModel, RunError> {
        let policy = self.setup(options)?.policy().map_err(|error| self.named(error))?;
        tell_of_unread(&self.path, policy.unread());
        tell_of_slow_dtype(&self.path, policy.spec().kind, options.device);
        Ok(policy)
    }

    /// Loads a classifier with these labels, and with its adapter, if it has one. From a folder
    /// with a language model or a bare encoder, only the trunk is used; the head is then drawn from
    /// libtorch's generator, like a new adapter.
    ///
    /// # Errors
    /// [`RunError::Model`], [`RunError::Setting`].
    pub fn classifier(
        &self,
        labels: &[String],
        options: LoadOptions,
    ) -> Result<Classifier, RunError> {
        let files = self.files()?;
        let mut model = files
            .classifier_with_labels(labels, self.options(options)?)
            .map_err(|error| converted("model.path", error))?;
        tell_of_unread(&self.path, model.unread());
        if files.adapter.is_some() {
            model.adapters().train(ADAPTER)?;
        }
        if let Some(lora) = &self.lora {
            let adapter = lora.adapter(&self.path)?;
            adapter.add_to_classifier(&mut model).map_err(|error| lora.named(error))?;
        }
        Ok(model)
    }

    /// Converts an error of a model or its adapter.
    fn named(&self, error: ModelError) -> RunError {
        match &self.lora {
            Some(lora) => lora.named(error),
            None => error.into(),
        }
    }

    /// Checks the settings of training (`[learn]`), and that the trained weights are those that are
    /// written.
    ///
    /// # Errors
    /// [`RunError::Train`], [`RunError::Setting`].
    pub fn check_learn(&self, learn: &LearnConfig) -> Result<(), RunError> {
        learn.check().map_err(|error| RunError::from(error).within("learn"))?;
        self.check_trainable("learn.trainable", &learn.trainable)
    }

    /// Checks that the trained weights are those that are written.
    ///
    /// # Errors
    /// [`RunError::Setting`] of `key`.
    pub fn check_trainable(
        &self,
        key: &'static str,
        trainable: &Trainable,
    ) -> Result<(), RunError> {
        let adapter = match (&self.lora, &self.adapter) {
            (Some(_), _) => "model.lora",
            (None, Some(_)) => "model.adapter",
            (None, None) => return Ok(()),
        };
        if *trainable == Trainable::Auto {
            return Ok(());
        }
        let expected = "no value, because the adapter is trained and written";
        Err(BadSetting::new(key, format!("given beside `{adapter}`"), expected).into())
    }

    /// Locations that may be local files or folders.
    pub fn locations(&mut self) -> Vec<&mut String> {
        let mut all = vec![&mut self.path];
        all.extend(self.adapter.as_mut());
        all.extend(self.base.as_mut());
        all
    }
}
