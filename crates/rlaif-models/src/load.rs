//! How a folder is read.

use std::path::Path;

use rlaif_checkpoint::Checkpoint;
use tch::{Device, Kind};

use crate::{config::Config, error::ModelError, family::Families, weights::Source};

/// How weights are to be loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadOptions {
    /// The device they go to.
    pub device: Device,
    /// The kind they become; `None` leaves them as the checkpoint has them.
    pub kind: Option<Kind>,
    /// The families that are known.
    pub families: Families,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { device: Device::Cpu, kind: None, families: Families::BUILT_IN }
    }
}

impl LoadOptions {
    /// Weights on this device in this kind, or in the checkpoint's own.
    pub fn new(device: Device, kind: impl Into<Option<Kind>>) -> Self {
        Self { device, kind: kind.into(), families: Families::BUILT_IN }
    }

    /// Where random weights come from: f32 in the absence of a kind.
    pub(crate) fn random(self) -> Source<'static> {
        Source::random(self.kind.unwrap_or(Kind::Float), self.device)
    }
}

/// Reads a folder for the function that builds a model of it, and says which tensors that left.
pub(crate) fn from_folder<M>(
    folder: &Path,
    options: LoadOptions,
    build: impl FnOnce(Families, Config, Source<'_>) -> Result<M, ModelError>,
) -> Result<(M, Vec<String>), ModelError> {
    let (config, checkpoint) = open(folder)?;
    let source = Source::checkpoint(&checkpoint, options.kind, options.device);
    let unread = source.unread();
    let model = build(options.families, config, source)?;
    Ok((model, unread.take()))
}

/// The configuration and the weights of a folder, once they are known to be of a kind that is read.
pub(crate) fn open(folder: &Path) -> Result<(Config, Checkpoint), ModelError> {
    let config = Config::read(folder)?;
    config.check_weights()?;
    Ok((config, Checkpoint::open(folder)?))
}
