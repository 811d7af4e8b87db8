//! From a model's files to the model with its adapter.

use std::path::Path;

use rlaif_checkpoint::{AdapterConfig, AdapterKey, Checkpoint, TaskType};

use crate::{
    classifier::Classifier,
    config::Config,
    convert::{ConvertError, classifier_with_labels},
    error::ModelError,
    files::{ADAPTER, ModelFiles},
    labels::Labels,
    language_model::LanguageModel,
    load::LoadOptions,
    sort::ModelSort,
};

impl ModelFiles {
    /// The sort of model: an adapter's own, if its configuration has one.
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
            let without_effect = model.adapters().load(ADAPTER, adapter)?;
            model.add_unread(without_effect);
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
        let without_effect = model.adapters().load(ADAPTER, adapter)?;
        model.add_unread(without_effect);
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
            let without_effect = model.adapters().load(ADAPTER, adapter)?;
            model.add_unread(without_effect);
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

    /// The labels of a classifier's adapter: those of the config.json beside it, or as many as its
    /// head has rows. `None` if the base already has a head with this number of labels.
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
        let mut rows =
            file.tensors().iter().filter_map(|(name, info)| match AdapterKey::parse(name)? {
                AdapterKey::Saved { parameter } => {
                    let of_head = heads.first().is_some_and(|head| parameter.starts_with(head));
                    let last = of_head && info.shape.len() == 2 && !parameter.contains(".dense.");
                    last.then(|| info.shape[0])
                }
                _ => None,
            });
        match (rows.next_back(), of_base) {
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
