//! From a model's files to the model with its adapter.

use std::path::Path;

use rlaif_checkpoint::{AdapterConfig, AdapterKey, Checkpoint, TaskType};
use rlaif_lm::SequenceClassifier;

use crate::{
    classifier::Classifier,
    config::Config,
    convert::{ConvertError, HeadPlace, classifier_with_head, classifier_with_labels},
    error::ModelError,
    files::{ADAPTER, ModelFiles},
    labels::Labels,
    language_model::LanguageModel,
    load::{Build, LoadOptions, open},
    sort::{ModelSort, class, of_tokens},
};

impl ModelFiles {
    /// The sort of model: an adapter's own, if its configuration has one. If config.json names no class, a
    /// model with a classifier's head and none of a language model is a classifier.
    ///
    /// # Errors
    /// As [`LanguageModel::load`], for the configuration and the names of the tensors.
    pub fn sort(&self, options: LoadOptions) -> Result<ModelSort, ModelError> {
        if let Some(adapter) = &self.adapter {
            match AdapterConfig::read(adapter)?.task_type {
                Some(TaskType::SequenceClassification | TaskType::TokenClassification) => {
                    return Ok(ModelSort::Classifier);
                }
                Some(TaskType::CausalLm | TaskType::Seq2SeqLm) => {
                    return Ok(ModelSort::LanguageModel);
                }
                None => {}
            }
        }
        let (config, checkpoint) = open(&self.folder)?;
        options.families.sort_of_files(&config, &checkpoint)
    }

    /// Loads a language model. Its adapter is active and frozen.
    ///
    /// # Errors
    /// As [`LanguageModel::load`] and [`crate::ModelAdapters::load`].
    pub fn language_model(&self, options: LoadOptions) -> Result<LanguageModel, ModelError> {
        let mut model = LanguageModel::load(&self.folder, options)?;
        if let Some(adapter) = &self.adapter {
            let without_effect = model.adapters().load(ADAPTER, adapter)?;
            model.unread_mut().extend(without_effect);
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
        let place = self.head_place(adapter)?;
        let labels = self.labels_of(adapter, place, options)?;
        let mut model = match labels {
            Some(labels) => classifier_with_head(&self.folder, &labels, place, options)?,
            None => Classifier::load(&self.folder, options)?,
        };
        self.put_on(&mut model, adapter)?;
        Ok(model)
    }

    /// The place of an adapter's head: by its task, or by its base if it names none.
    fn head_place(&self, adapter: &Path) -> Result<HeadPlace, ModelError> {
        let on_tokens = match AdapterConfig::read(adapter)?.task_type {
            Some(TaskType::TokenClassification) => true,
            Some(TaskType::SequenceClassification | TaskType::CausalLm | TaskType::Seq2SeqLm) => {
                false
            }
            None => of_tokens(class(&Config::read(&self.folder)?)),
        };
        Ok(if on_tokens { HeadPlace::Tokens } else { HeadPlace::Texts })
    }

    /// Puts an adapter on its base. Parameters that the base lacks, which are random now, must be in the
    /// adapter.
    fn put_on(&self, model: &mut Classifier, adapter: &Path) -> Result<(), ConvertError> {
        let without_effect = model.adapters().load(ADAPTER, adapter)?;
        model.unread_mut().extend(without_effect);
        let parameters = model.parameters();
        let made_up = |name: &&String| {
            let of_adapter = name.rsplit_once('.').map(|(module, parameter)| {
                format!("{module}.modules_to_save.{ADAPTER}.{parameter}")
            });
            of_adapter.is_none_or(|name| parameters.get(&name).is_none())
        };
        let missing: Vec<String> = model.made_anew().iter().filter(made_up).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let (adapter, base) = (adapter.to_owned(), self.folder.clone());
        Err(ConvertError::PartOfHead { adapter, base, missing })
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
        let config = self.adapter.as_deref().map(AdapterConfig::read).transpose();
        let config = config.map_err(ModelError::from)?;
        let on_tokens = Some(TaskType::TokenClassification);
        if let (Some(adapter), Some(config)) = (&self.adapter, &config)
            && config.task_type == on_tokens
        {
            return Err(ConvertError::AdapterOnTokens { adapter: adapter.clone() });
        }
        let mut model = classifier_with_labels(&self.folder, labels, options)?;
        if let (Some(adapter), Some(config)) = (&self.adapter, config) {
            let of_language =
                matches!(config.task_type, Some(TaskType::CausalLm | TaskType::Seq2SeqLm));
            if of_language || config.modules_to_save.is_empty() {
                return Err(ConvertError::AdapterWithoutHead { adapter: adapter.clone() });
            }
            if adapter.join("config.json").is_file() {
                let own = Labels::from_config(&Config::read(adapter)?)?;
                if own.names() != labels {
                    let (folder, labels) = (adapter.clone(), own.names().to_vec());
                    return Err(ConvertError::Labels { folder, labels });
                }
            }
            self.put_on(&mut model, adapter)?;
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

    /// The labels of a classifier's adapter with its head there: those of the config.json beside it, or as many as its
    /// head has rows. `None` if the base has a head with these labels.
    fn labels_of(
        &self,
        adapter: &Path,
        place: HeadPlace,
        options: LoadOptions,
    ) -> Result<Option<Vec<String>>, ConvertError> {
        let (base, checkpoint) = open(&self.folder)?;
        let classifies = options.families.family(&base)?.classifies;
        let has_head = classifies.is_some_and(|classifies| classifies.has_head(&checkpoint))
            && (place == HeadPlace::Tokens) == of_tokens(class(&base));
        let of_base = Labels::from_config(&base)?.names().to_vec();
        if adapter.join("config.json").is_file() {
            let labels = Labels::from_config(&Config::read(adapter)?)?.names().to_vec();
            return Ok(Some(labels).filter(|labels| !has_head || of_base != *labels));
        }
        let file = Checkpoint::open_adapter(adapter).map_err(ModelError::from)?;
        let head = classifies.and_then(|classifies| match place {
            HeadPlace::Texts => classifies.head.first().copied(),
            HeadPlace::Tokens => classifies.tokens.map(|tokens| tokens.head),
        });
        // The last layer of a head has a row for each label: `score`, `classifier`, `.out_proj`.
        let mut rows =
            file.tensors().iter().filter_map(|(name, info)| match AdapterKey::parse(name)? {
                AdapterKey::Saved { parameter } => {
                    let of_head = head.is_some_and(|head| parameter.starts_with(head));
                    let last = of_head && info.shape.len() == 2 && !parameter.contains(".dense.");
                    last.then(|| info.shape[0])
                }
                _ => None,
            });
        match rows.next_back() {
            Some(rows) if of_base.len() == rows => Ok((!has_head).then_some(of_base)),
            Some(rows) => Ok(Some((0..rows).map(|i| format!("LABEL_{i}")).collect())),
            None if has_head => Ok(None),
            None => Err(ConvertError::NoHeadInAdapter {
                adapter: adapter.to_owned(),
                base: self.folder.clone(),
            }),
        }
    }
}
