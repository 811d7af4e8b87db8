//! Sequence classifiers of any family: one model around the layers of each.

use std::path::Path;

use rlaif_lm::{
    Forward, LabelScheme, LmError, LmSpec, Padding, Parameters, SequenceClassifier, TokenBatch,
};
use tch::{Device, Kind, Tensor};

use crate::{
    adapter::Pass,
    architecture::ClassifierLayers,
    config::Config,
    error::ModelError,
    family::{Classifies, Families, Family},
    files::{AdapterBase, ModelFiles},
    frame::Frame,
    labels::Labels,
    load::{Build, LoadOptions, from_folder},
    lora::ModelAdapters,
    save::{self, SaveOptions},
    sort::{ModelSort, class, of_tokens, wrong_sort},
    weights::ModelTensors,
};

/// A sequence classifier of any family.
#[derive(Debug)]
pub struct Classifier {
    family: &'static Family,
    frame: Frame,
    labels: Labels,
    layers: Box<dyn ClassifierLayers>,
    unread: Vec<String>,
    made_anew: Vec<String>,
}

impl Classifier {
    /// Loads a classifier from a folder in Hugging Face's layout.
    ///
    /// # Errors
    /// As [`crate::LanguageModel::load`], with [`ModelError::WrongSort`] for a language model.
    pub fn load(folder: &Path, options: LoadOptions) -> Result<Self, ModelError> {
        from_folder(folder, options)
    }

    /// A classifier with random weights, drawn from libtorch's generator: seed it before.
    ///
    /// # Errors
    /// As [`Self::load`], for the configuration.
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

    /// The row of the table that built it.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// `true` for a head on tokens, which reads the last token of a row: special tokens that a tokenizer adds behind
    /// a text are to be left out.
    pub fn has_token_head(&self) -> bool {
        of_tokens(class(&self.frame.config))
    }

    /// The names of the tensors in the folder that this model has no use for, such as a value head.
    pub fn unread(&self) -> &[String] {
        &self.unread
    }

    /// The parameters of the head that no file had, which are random.
    pub(crate) fn made_anew(&self) -> &[String] {
        &self.made_anew
    }

    pub(crate) fn set_made_anew(&mut self, names: Vec<String>) {
        self.made_anew = names;
    }

    /// The model's config.json.
    pub fn config(&self) -> &Config {
        &self.frame.config
    }

    /// The adapters, to be added, switched, merged and saved.
    pub fn adapters(&mut self) -> ModelAdapters<'_> {
        ModelAdapters::new(self.layers.parts(&mut self.frame))
    }

    /// Writes an adapter as a folder that peft loads, with the labels in a config.json beside it, and the
    /// tokenizer that the adapter in `files` has of its own.
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
        let config = self.frame.config.fields().clone();
        self.adapters().write(name, folder, Some(base), Some(&config), files.adapter.as_deref())
    }

    /// Writes a folder that transformers loads; as [`crate::LanguageModel::save`].
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if it cannot be written; nothing is left behind then.
    pub fn save(&self, folder: &Path, options: &SaveOptions<'_>) -> Result<(), ModelError> {
        save::write_model(folder, &self.frame, self.family, options)
    }

    /// Hidden states `[B, T, H]` that the head reads, one for each token: what a head of another
    /// kind can be put on, such as one that guesses hidden words. Arguments as of
    /// [`SequenceClassifier::logits`].
    ///
    /// # Errors
    /// As [`SequenceClassifier::logits`].
    pub fn hidden(
        &self,
        input: &TokenBatch,
        second_start: Option<&[usize]>,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        self.run(input, second_start, self.frame.adapters.resolve(forward)?)
    }

    fn run(
        &self,
        input: &TokenBatch,
        second_start: Option<&[usize]>,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        for (row, ids) in input.rows().iter().enumerate() {
            self.frame.spec.check_length(row, ids.len())?;
        }
        self.layers.hidden(input, second_start, pass)
    }
}

impl Build for Classifier {
    fn build(
        families: Families,
        config: Config,
        source: ModelTensors<'_>,
    ) -> Result<Self, ModelError> {
        let (family, sort) = families.of(&config)?;
        // As in transformers, the head in the files counts, not the name of a class.
        let has_head = |classifies: &Classifies| {
            classifies.linear_head.is_some_and(|head| source.is_of_files() && source.has(head))
        };
        let fits = |classifies: &Classifies| sort == ModelSort::Classifier || has_head(classifies);
        let Some(classifies) = family.classifies.filter(fits) else {
            return Err(wrong_sort(&config, "a classifier; load it as a language model"));
        };
        let labels = Labels::from_config(&config)?;
        let source = source.with_heads(family.heads(), None);
        let built = (classifies.build)(&config, &labels, source);
        let (layers, spec, parameters) = built.map_err(|error| error.in_file(config.path()))?;
        let frame = Frame::new(spec, config, parameters);
        Ok(Self { family, frame, labels, layers, unread: Vec::new(), made_anew: Vec::new() })
    }

    fn unread_mut(&mut self) -> &mut Vec<String> {
        &mut self.unread
    }

    fn resize(&mut self, options: LoadOptions) -> Result<(), ModelError> {
        options.resize(&mut self.layers.parts(&mut self.frame))
    }
}

impl SequenceClassifier for Classifier {
    fn spec(&self) -> &LmSpec {
        &self.frame.spec
    }

    fn labels(&self) -> &[String] {
        self.labels.names()
    }

    fn scheme(&self) -> LabelScheme {
        self.labels.scheme()
    }

    fn logits(
        &self,
        input: &TokenBatch,
        second_start: Option<&[usize]>,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        let pass = self.frame.adapters.resolve(forward)?;
        let hidden = self.run(input, second_start, pass)?;
        if let Some(pooled) = self.layers.pooled(&hidden, input) {
            return Ok(self.layers.score(pooled, pass).to_kind(Kind::Float));
        }
        let width = input.width();
        let read: Vec<i64> = input
            .rows()
            .iter()
            .enumerate()
            .map(|(i, row)| {
                let start = match input.padding() {
                    Padding::Right => i * width,
                    Padding::Left => (i + 1) * width - row.len(),
                };
                (start + self.layers.read_token(row)) as i64
            })
            .collect();
        let read = Tensor::from_slice(&read).to_device(hidden.device());
        let hidden = hidden.flatten(0, 1).index_select(0, &read);
        Ok(self.layers.score(hidden, pass).to_kind(Kind::Float))
    }

    fn parameters(&self) -> &Parameters {
        &self.frame.parameters
    }
}
