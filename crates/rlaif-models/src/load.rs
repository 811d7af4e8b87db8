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

/// Reads a folder for the function that builds its model, and returns the names of unused tensors.
pub(crate) fn from_folder<M>(
    folder: &Path,
    options: LoadOptions,
    build: impl FnOnce(Families, Config, ModelTensors<'_>) -> Result<M, ModelError>,
) -> Result<(M, Vec<String>), ModelError> {
    let (config, checkpoint) = open(folder)?;
    let source = ModelTensors::checkpoint(&checkpoint, options.kind, options.device);
    let source = source.quantized(options.quantization);
    let unread = source.unread();
    let model = build(options.families, config, source)?;
    Ok((model, unread.take()))
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
