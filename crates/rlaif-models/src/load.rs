//! Loading of a model folder.

use std::path::Path;

use rlaif_checkpoint::Checkpoint;
use rlaif_torch::Quantization;
use tch::{Device, Kind};

use crate::{
    config::{Config, check_names},
    error::ModelError,
    family::Families,
    frame::Parts,
    vocabulary::VocabularySize,
    weights::ModelTensors,
};

/// Options for loading weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadOptions {
    /// The device of the weights.
    pub device: Device,
    /// The dtype of the weights; `None` for that of the checkpoint.
    pub kind: Option<Kind>,
    /// The format of the weights of linear layers, except for heads; `None` for that of the checkpoint. Quantized
    /// weights are frozen: train an adapter on them.
    pub quantization: Option<Quantization>,
    /// The size of the vocabulary, for tokens that the checkpoint lacks; `None` for that of the checkpoint.
    pub vocabulary: Option<VocabularySize>,
    /// The known families.
    pub families: Families,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self::new(Device::Cpu, None)
    }
}

impl LoadOptions {
    /// Loads weights to this device with this dtype, or with that of the checkpoint.
    pub fn new(device: Device, kind: impl Into<Option<Kind>>) -> Self {
        let (kind, families) = (kind.into(), Families::BUILT_IN);
        Self { device, kind, quantization: None, vocabulary: None, families }
    }

    /// Adds the rows of the vocabulary that a model without adapters lacks.
    pub(crate) fn resize(self, parts: &mut Parts<'_>) -> Result<(), ModelError> {
        self.vocabulary.map_or(Ok(()), |vocabulary| vocabulary.give(parts))
    }

    /// The source of random weights, in f32 by default.
    pub(crate) fn random(self) -> ModelTensors<'static> {
        ModelTensors::random(self.kind.unwrap_or(Kind::Float), self.device)
            .quantized(self.quantization)
    }
}

/// A model that a folder can hold.
pub(crate) trait Build: Sized {
    /// Builds the model that `config` describes from the tensors of `source`.
    fn build(
        families: Families,
        config: Config,
        source: ModelTensors<'_>,
    ) -> Result<Self, ModelError>;

    /// The names of the tensors in the folder that the model has no use for.
    fn unread_mut(&mut self) -> &mut Vec<String>;

    /// Adds the rows of the vocabulary that the options ask for.
    fn resize(&mut self, options: LoadOptions) -> Result<(), ModelError>;
}

/// The model of a folder.
pub(crate) fn from_folder<M: Build>(folder: &Path, options: LoadOptions) -> Result<M, ModelError> {
    let (config, checkpoint) = open(folder)?;
    let source = ModelTensors::checkpoint(&checkpoint, options.kind, options.device);
    let source = source.quantized(options.quantization);
    let unread = source.unread();
    let mut model = M::build(options.families, config, source)?;
    *model.unread_mut() = unread.take();
    model.resize(options)?;
    Ok(model)
}

/// The configuration and the weights of a folder, after checking that their format is supported.
pub(crate) fn open(folder: &Path) -> Result<(Config, Checkpoint), ModelError> {
    let config = Config::read(folder)?;
    config.check_types()?;
    config.check_weights()?;
    let checkpoint = Checkpoint::open(folder)?;
    check_names(&checkpoint)?;
    Ok((config, checkpoint))
}
