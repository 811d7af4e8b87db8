//! A model on this disk: a folder, and the adapter on it.

use std::path::{Path, PathBuf};

use rlaif_checkpoint::{AdapterConfig, AdapterKey, Checkpoint, CheckpointError, TaskType};

use crate::{
    classifier::Classifier,
    config::Config,
    convert::{ConvertError, classifier_with_labels},
    error::ModelError,
    labels::Labels,
    language_model::LanguageModel,
    load::LoadOptions,
    sort::ModelSort,
};

/// The name that an adapter has in a model that was loaded with it.
pub const ADAPTER: &str = "default";

/// A model as a command or a run file names it: a model, a model and an adapter on it, or an adapter,
/// which names its base itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct ModelNames<'a> {
    /// Folder or hub id of a model or of an adapter.
    pub model: &'a str,
    /// Its branch, tag or commit.
    pub revision: Option<&'a str>,
    /// Folder or hub id of an adapter on the model.
    pub adapter: Option<&'a str>,
    /// Base of the adapter that `model` names, in place of the one that it names itself.
    pub base: Option<&'a str>,
}

/// A model on this disk: a folder in Hugging Face's layout, and perhaps the folder of a LoRA adapter
/// on it.
///
/// ```
/// use rlaif_models::{LoadOptions, ModelFiles};
/// # let fixtures = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures"));
/// let files = ModelFiles {
///     folder: fixtures.join("models/llama3"),
///     adapter: Some(fixtures.join("adapters/llama3-a")),
/// };
/// let mut policy = files.language_model(LoadOptions::default())?;
/// assert_eq!(policy.adapters().active(), Some("default"));
/// # Ok::<(), rlaif_models::ModelError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelFiles {
    /// The folder of the model, or of the adapter's base.
    pub folder: PathBuf,
    /// The folder of the adapter.
    pub adapter: Option<PathBuf>,
}

impl From<PathBuf> for ModelFiles {
    fn from(folder: PathBuf) -> Self {
        Self { folder, adapter: None }
    }
}

impl From<&Path> for ModelFiles {
    fn from(folder: &Path) -> Self {
        folder.to_owned().into()
    }
}

impl From<&PathBuf> for ModelFiles {
    fn from(folder: &PathBuf) -> Self {
        folder.clone().into()
    }
}

impl From<&str> for ModelFiles {
    fn from(folder: &str) -> Self {
        PathBuf::from(folder).into()
    }
}

impl ModelFiles {
    /// True of a folder that holds an adapter and no weights of a whole model.
    pub fn is_adapter(folder: &Path) -> bool {
        folder.join("adapter_config.json").is_file()
            && matches!(Checkpoint::open(folder), Err(CheckpointError::NoWeights { .. }))
    }

    /// The base that an adapter's configuration names: a folder or a hub id, with its revision.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if `adapter_config.json` cannot be read.
    pub fn base_of(adapter: &Path) -> Result<(Option<String>, Option<String>), ModelError> {
        let config = AdapterConfig::read(adapter)?;
        let named = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok((named(config.base_model_name_or_path), named(config.revision)))
    }

    /// The sort of model. An adapter says it itself, where it does.
    ///
    /// # Errors
    /// As [`LanguageModel::load`], for the configuration.
    pub fn sort(&self, options: LoadOptions) -> Result<ModelSort, ModelError> {
        if let Some(adapter) = &self.adapter {
            match AdapterConfig::read(adapter)?.task_type {
                Some(TaskType::SequenceClassification) => return Ok(ModelSort::Classifier),
                Some(TaskType::CausalLm | TaskType::Seq2SeqLm) => {
                    return Ok(ModelSort::LanguageModel);
                }
                None => {}
            }
        }
        Ok(options.families.of(&Config::read(&self.folder)?)?.1)
    }

    /// Loads a language model. Its adapter is active and frozen.
    ///
    /// # Errors
    /// As [`LanguageModel::load`] and [`crate::ModelAdapters::load`].
    pub fn language_model(&self, options: LoadOptions) -> Result<LanguageModel, ModelError> {
        let mut model = LanguageModel::load(&self.folder, options)?;
        if let Some(adapter) = &self.adapter {
            model.adapters().load(ADAPTER, adapter)?;
        }
        Ok(model)
    }

    /// Loads a classifier. Its adapter is active and frozen. The base of an adapter may be a model
    /// without a head, which the adapter then has.
    ///
    /// # Errors
    /// [`ConvertError::Model`] as of [`Classifier::load`] and [`crate::ModelAdapters::load`];
    /// [`ConvertError::NoHeadInAdapter`] if neither the base nor the adapter has a head.
    pub fn classifier(&self, options: LoadOptions) -> Result<Classifier, ConvertError> {
        let Some(adapter) = &self.adapter else {
            return Ok(Classifier::load(&self.folder, options)?);
        };
        let labels = self.labels_of(adapter, options)?;
        let mut model = match labels {
            Some(labels) => classifier_with_labels(&self.folder, &labels, options)?,
            None => Classifier::load(&self.folder, options)?,
        };
        model.adapters().load(ADAPTER, adapter)?;
        Ok(model)
    }

    /// Loads a classifier with these labels, as [`classifier_with_labels`]. Its adapter is active and
    /// frozen.
    ///
    /// # Errors
    /// As [`classifier_with_labels`] and [`crate::ModelAdapters::load`];
    /// [`ConvertError::AdapterWithoutHead`], [`ConvertError::Labels`] for an adapter on other labels.
    pub fn classifier_with_labels(
        &self,
        labels: &[String],
        options: LoadOptions,
    ) -> Result<Classifier, ConvertError> {
        let mut model = classifier_with_labels(&self.folder, labels, options)?;
        if let Some(adapter) = &self.adapter {
            let config = AdapterConfig::read(adapter).map_err(ModelError::from)?;
            if config.modules_to_save.is_empty() {
                return Err(ConvertError::AdapterWithoutHead { adapter: adapter.clone() });
            }
            if adapter.join("config.json").is_file() {
                let own = Labels::from_config(&Config::read(adapter)?)?;
                if own.names() != labels {
                    let (folder, labels) = (adapter.clone(), own.names().to_vec());
                    return Err(ConvertError::Labels { folder, labels });
                }
            }
            model.adapters().load(ADAPTER, adapter)?;
        }
        Ok(model)
    }

    /// Loads a language model with its adapter added into the weights.
    ///
    /// # Errors
    /// As [`Self::language_model`].
    pub fn merged_language_model(&self, options: LoadOptions) -> Result<LanguageModel, ModelError> {
        let mut model = self.language_model(options)?;
        if self.adapter.is_some() {
            model.adapters().merge(ADAPTER)?;
            model.adapters().remove(ADAPTER)?;
        }
        Ok(model)
    }

    /// Loads a classifier with its adapter added into the weights.
    ///
    /// # Errors
    /// As [`Self::classifier`].
    pub fn merged_classifier(&self, options: LoadOptions) -> Result<Classifier, ConvertError> {
        let mut model = self.classifier(options)?;
        if self.adapter.is_some() {
            model.adapters().merge(ADAPTER)?;
            model.adapters().remove(ADAPTER)?;
        }
        Ok(model)
    }

    /// The labels of a classifier's adapter: those of the config.json beside it, or as many as its head
    /// has rows. `None` if the base has a head of so many labels itself.
    fn labels_of(
        &self,
        adapter: &Path,
        options: LoadOptions,
    ) -> Result<Option<Vec<String>>, ConvertError> {
        let base = Config::read(&self.folder)?;
        let of_base = match options.families.of(&base) {
            Ok((_, ModelSort::Classifier)) => Some(Labels::from_config(&base)?.names().to_vec()),
            _ => None,
        };
        if adapter.join("config.json").is_file() {
            let labels = Labels::from_config(&Config::read(adapter)?)?;
            let labels = labels.names().to_vec();
            return Ok(Some(labels).filter(|labels| of_base.as_ref() != Some(labels)));
        }
        let file = Checkpoint::open_adapter(adapter).map_err(ModelError::from)?;
        let family = options.families.family(&base)?;
        let heads = family.classifies.map_or(&[][..], |classifies| classifies.head);
        // The last layer of a head has a row for each label: `score`, `classifier`, `.out_proj`.
        let rows =
            file.tensors().iter().filter_map(|(name, info)| match AdapterKey::parse(name)? {
                AdapterKey::Saved { parameter } => {
                    let of_head = heads.first().is_some_and(|head| parameter.starts_with(head));
                    let last = of_head && info.shape.len() == 2 && !parameter.contains(".dense.");
                    last.then(|| info.shape[0])
                }
                _ => None,
            });
        match (rows.last(), of_base) {
            (Some(rows), Some(labels)) if labels.len() == rows => Ok(None),
            (Some(rows), _) => Ok(Some((0..rows).map(|i| format!("LABEL_{i}")).collect())),
            (None, Some(_)) => Ok(None),
            (None, None) => Err(ConvertError::NoHeadInAdapter {
                adapter: adapter.to_owned(),
                base: self.folder.clone(),
            }),
        }
    }
}
