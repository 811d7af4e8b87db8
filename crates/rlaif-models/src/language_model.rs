//! Language models of any family.

use std::path::Path;

use rlaif_lm::{AsPolicy, Policy};
use tch::{Device, Kind};

use crate::{
    architecture::{Architecture, LanguageLayers},
    config::Config,
    error::ModelError,
    family::{Families, Family},
    files::{AdapterBase, ModelFiles},
    load::{Build, LoadOptions, from_folder},
    lora::ModelAdapters,
    save::{self, ModelSettings, SaveOptions},
    sort::{ModelSort, wrong_sort},
    weights::ModelTensors,
};

/// A language model of any family, as a [`Policy`].
#[derive(Debug)]
pub struct LanguageModel {
    family: &'static Family,
    layers: Box<dyn LanguageLayers>,
    unread: Vec<String>,
}

impl LanguageModel {
    /// Loads a model from a folder in Hugging Face's layout.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] for files that cannot be
    /// read, [`ModelError::UnknownArchitecture`], [`ModelError::WrongSort`] for a classifier,
    /// [`ModelError::UnsupportedField`] and [`ModelError::BadField`] for a configuration that
    /// cannot be honoured, [`ModelError::Tensors`] with every tensor that does not fit.
    pub fn load(folder: &Path, options: LoadOptions) -> Result<Self, ModelError> {
        from_folder(folder, options)
    }

    /// A model with random weights, drawn from libtorch's generator: seed it before.
    ///
    /// # Errors
    /// As [`Self::load`], for the configuration.
    ///
    /// ```
    /// use rlaif_lm::Policy;
    /// use rlaif_models::{Config, LanguageModel};
    /// use tch::{Device, Kind};
    /// let config = Config::from_value(serde_json::json!({
    ///     "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
    ///     "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
    /// }));
    /// tch::manual_seed(7);
    /// let policy = LanguageModel::random(config, Kind::Float, Device::Cpu)?;
    /// assert_eq!(policy.spec().hidden_size, 16);
    /// # Ok::<(), rlaif_models::ModelError>(())
    /// ```
    pub fn random(config: Config, kind: Kind, device: Device) -> Result<Self, ModelError> {
        Self::fresh(config, LoadOptions::new(device, kind))
    }

    /// As [`Self::random`], with custom families; f32 in the absence of a kind.
    ///
    /// # Errors
    /// As [`Self::load`], for the configuration.
    pub fn fresh(config: Config, options: LoadOptions) -> Result<Self, ModelError> {
        Self::build(options.families, config, options.random())
    }

    /// The names of the tensors in the folder that this model has no use for, such as a value head.
    pub fn unread(&self) -> &[String] {
        &self.unread
    }

    /// The model's config.json.
    pub fn config(&self) -> &Config {
        &self.layers.frame().config
    }

    /// The row of the table that built it.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// The model by the contract that it implements.
    pub fn architecture(&self) -> Architecture<'_> {
        self.layers.architecture()
    }

    /// The adapters, to be added, switched, merged and saved.
    pub fn adapters(&mut self) -> ModelAdapters<'_> {
        ModelAdapters::new(self.layers.parts())
    }

    /// The settings of a folder in which no matrix of this model is tied to another one.
    pub(crate) fn untied_settings(&mut self) -> ModelSettings {
        let settings = ModelSettings::of(self.layers.frame(), self.family);
        settings.untied(&self.layers.parts())
    }

    /// Writes an adapter as a folder that peft loads, with the tokenizer that the adapter in `files` has
    /// of its own.
    ///
    /// # Errors
    /// As [`ModelAdapters::save`].
    pub fn save_adapter(
        &mut self,
        name: &str,
        folder: &Path,
        files: &ModelFiles,
        base: &AdapterBase,
    ) -> Result<(), ModelError> {
        self.adapters().write(name, folder, Some(base), None, files.adapter.as_deref())
    }

    /// Writes a folder that transformers loads. Adapters are not in it: merge them first, or save
    /// them by [`ModelAdapters::save`].
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if it cannot be written; nothing is left behind then.
    pub fn save(&self, folder: &Path, options: &SaveOptions<'_>) -> Result<(), ModelError> {
        save::write_model(folder, self.layers.frame(), self.family, options)
    }
}

impl Build for LanguageModel {
    fn build(
        families: Families,
        config: Config,
        source: ModelTensors<'_>,
    ) -> Result<Self, ModelError> {
        let (family, sort) = families.of(&config)?;
        match (sort, family.generates) {
            (ModelSort::LanguageModel, Some(generates)) => {
                let file = config.path().to_owned();
                let source = source.with_heads(family.heads(), Some(generates.head));
                let layers = (generates.build)(config, source);
                let layers = layers.map_err(|error| error.in_file(&file))?;
                Ok(Self { family, layers, unread: Vec::new() })
            }
            _ => Err(wrong_sort(&config, "a language model; load it as a classifier")),
        }
    }

    fn unread_mut(&mut self) -> &mut Vec<String> {
        &mut self.unread
    }

    fn resize(&mut self, options: LoadOptions) -> Result<(), ModelError> {
        options.resize(&mut self.layers.parts())
    }
}

impl AsPolicy for LanguageModel {
    fn as_policy(&self) -> &dyn Policy {
        self.layers.policy()
    }
}
