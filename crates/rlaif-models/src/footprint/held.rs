//! Models that are held in memory without being trained.

use std::path::PathBuf;

use rlaif_checkpoint::Checkpoint;
use rlaif_torch::Quantization;
use tch::{Device, Kind};

use super::{
    needed::{MemoryError, MemoryNeeded},
    sizes::{ADAPTER_WIDTH, adapter_weights, cached_per_token, dimensions, gib, parameters, size},
};
use crate::{config::Config, error::ModelError, family::Families, weights::dtype_name};

/// A model that is held in memory and not trained: a reward model, a judge, an evaluated policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldModel {
    /// The model's folder.
    pub folder: PathBuf,
    /// Folder of an adapter on the model.
    pub adapter: Option<PathBuf>,
    /// The dtype of the weights; by default, that of the checkpoint.
    pub kind: Option<Kind>,
    /// The format of the trunk's linear layers; `None` for that of the checkpoint.
    pub quantization: Option<Quantization>,
    /// The answers that it generates together, if it generates.
    pub answers: Option<AnswerBatch>,
}

/// Answers that a model generates together. The length of their prompts is unknown before they are read, and
/// not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerBatch {
    /// Number of answers.
    pub rows: usize,
    /// Maximum length of an answer, in tokens.
    pub tokens: usize,
}

impl HeldModel {
    /// A model with the dtype of its checkpoint.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), adapter: None, kind: None, quantization: None, answers: None }
    }

    /// The same model in this dtype.
    #[must_use]
    pub fn in_kind(self, kind: Kind) -> Self {
        Self { kind: Some(kind), ..self }
    }

    /// The size of its weights, in bytes, from configuration and headers.
    ///
    /// # Errors
    /// [`ModelError`] when a folder cannot be read.
    pub fn bytes(&self, families: Families) -> Result<u64, ModelError> {
        let adapter = self.adapter.as_deref().map_or(Ok(0), adapter_weights)?;
        let weights = parameters(families, &self.folder, self.quantization)?.bytes(self.width()?);
        Ok(weights + adapter * ADAPTER_WIDTH)
    }

    /// The size of the keys and values of its answers, in bytes.
    ///
    /// # Errors
    /// [`ModelError`] when the folder cannot be read.
    pub fn cache(&self, families: Families) -> Result<u64, ModelError> {
        let Some(AnswerBatch { rows, tokens }) = self.answers else { return Ok(0) };
        let config = Config::read(&self.folder)?;
        let shape = dimensions(families, &config)?;
        Ok((rows * tokens) as u64 * cached_per_token(&shape) * self.width()?)
    }

    /// Bytes of a weight.
    fn width(&self) -> Result<u64, ModelError> {
        Ok(match self.kind {
            Some(kind) => size(kind),
            None => {
                let checkpoint = Checkpoint::open(&self.folder)?;
                let dtypes = checkpoint.tensors().values().map(|info| info.dtype);
                let of_weights = dtypes.filter(|&dtype| dtype_name(dtype).is_some());
                of_weights.map(|dtype| dtype.size() as u64).max().unwrap_or(0)
            }
        })
    }
}

/// Models that a command holds without training any, all on one device.
///
/// ```
/// use rlaif_models::{HeldModel, HeldModels};
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/flan");
/// let models = HeldModels {
///     policies: vec![HeldModel::new(folder), HeldModel::new(folder)],
///     ..HeldModels::on(tch::Device::Cpu)
/// };
/// assert!(models.check_within(1 << 30)?.total() < 1 << 20);
/// # Ok::<(), rlaif_models::MemoryError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct HeldModels {
    /// Policies that respond.
    pub policies: Vec<HeldModel>,
    /// Reward models and judges.
    pub rewards: Vec<HeldModel>,
    /// The known families.
    pub families: Families,
    /// The device.
    pub device: Device,
}

impl HeldModels {
    /// No models yet.
    pub fn on(device: Device) -> Self {
        Self { policies: Vec::new(), rewards: Vec::new(), families: Families::BUILT_IN, device }
    }

    /// The memory of the weights and of the answers.
    ///
    /// # Errors
    /// [`ModelError`] when a folder cannot be read.
    pub fn needed(&self) -> Result<MemoryNeeded, ModelError> {
        let caches = self.policies.iter().map(|model| model.cache(self.families));
        // One policy answers after the other.
        let caches: Vec<u64> = caches.collect::<Result<_, _>>()?;
        Ok(MemoryNeeded {
            weights: bytes(&self.policies, self.families)?,
            cache: caches.into_iter().max().unwrap_or(0),
            rewards: bytes(&self.rewards, self.families)?,
            judging: caches_of(&self.rewards, self.families)?,
            ..MemoryNeeded::default()
        })
    }

    /// Compares this memory with a number of bytes.
    ///
    /// # Errors
    /// [`MemoryError::TooLarge`] with a dtype that would make the models fit, if bf16 would.
    pub fn check_within(&self, free: u64) -> Result<MemoryNeeded, MemoryError> {
        let needed = self.needed()?;
        if needed.total() <= free {
            return Ok(needed);
        }
        let narrow = |models: &[HeldModel]| {
            models.iter().map(|model| model.clone().in_kind(Kind::BFloat16)).collect()
        };
        let (policies, rewards) = (narrow(&self.policies), narrow(&self.rewards));
        let total = Self { policies, rewards, ..self.clone() }.needed()?.total();
        let suggestion = match total <= free {
            true => format!("The models would fit in bf16: about {}.", gib(total)),
            false => "Take smaller models or a larger device.".to_owned(),
        };
        let needed = Box::new(needed);
        Err(MemoryError::TooLarge { needed, free, device: self.device, suggestion })
    }
}

pub(super) fn bytes(models: &[HeldModel], families: Families) -> Result<u64, ModelError> {
    models.iter().map(|model| model.bytes(families)).sum()
}

/// The answers of judges, which may be asked at the same time.
pub(super) fn caches_of(models: &[HeldModel], families: Families) -> Result<u64, ModelError> {
    models.iter().map(|model| model.cache(families)).sum()
}
