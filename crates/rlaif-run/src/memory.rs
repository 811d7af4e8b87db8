//! The memory that a run needs: refused before it starts, rather than killed in the middle.

use rlaif_models::{AnswerBatch, HeldModel, HeldModels, LoadOptions, MemoryNeeded, MemoryPlan};
use rlaif_rewards::neural::{Copies, LocalModel};
use rlaif_torch::free_memory;
use tch::{Device, Kind};

use crate::{
    error::RunError,
    model::{ModelSection, Placement},
    rewards::found,
};

/// The weights that are in memory when a run is checked.
///
/// A run is checked twice: before it loads anything, and again when the lengths of its rows are
/// known, which needs the trained model's tokenizer. It loads its rewards after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightsInMemory {
    /// None of them.
    NotLoaded,
    /// Weights of the trained models and their references, and no rewards.
    Loaded,
}

/// The models that rewards and judges run on this device. Those on another device are compared with
/// what it has free.
///
/// # Errors
/// [`RunError::Reward`] for a model that is not there; [`RunError::Memory`] for another device.
pub(crate) fn reward_models<'a>(
    models: impl IntoIterator<Item = LocalModel<'a>>,
    device: Device,
) -> Result<Vec<HeldModel>, RunError> {
    let mut shared = Vec::new();
    let mut devices = vec![HeldModels::on(device)];
    for model in models {
        let files = found(&model.names)?;
        let on = model.on(device)?;
        let kind = model.dtype.map(Kind::from);
        let (folder, adapter) = (files.folder.clone(), files.adapter.clone());
        let (quantization, answers) = (model.quantization, model.answers);
        let held = HeldModel { folder, adapter, kind, quantization, answers };
        if model.copies == Copies::Shared {
            let key = (files, on, kind);
            if shared.contains(&key) {
                continue;
            }
            shared.push(key);
        }
        match devices.iter_mut().find(|models| models.device == on) {
            Some(models) => models.rewards.push(held),
            None => devices.push(HeldModels { rewards: vec![held], ..HeldModels::on(on) }),
        }
    }
    let own = devices.swap_remove(0);
    for other in devices {
        if let Some(free) = free_memory(other.device) {
            other.check_within(free)?;
        }
    }
    Ok(own.rewards)
}

/// The largest of these lengths; 0 if there are none.
pub fn longest(lengths: impl IntoIterator<Item = usize>) -> usize {
    lengths.into_iter().max().unwrap_or(0)
}

impl ModelSection {
    /// The least memory that training this model needs: one token at a time. The caller adds its
    /// reference, rows and batches.
    ///
    /// # Errors
    /// [`RunError::Fetch`]; [`RunError::Setting`] for the adapter.
    pub fn memory(&self, options: LoadOptions) -> Result<MemoryPlan, RunError> {
        Ok(self.setup(options)?.policy_memory())
    }
}

impl Placement {
    /// Compares the memory that a run needs with `memory_gib`, or with what the device has free.
    ///
    /// # Errors
    /// [`RunError::Memory`] with a change that would help.
    pub fn check_memory(
        &self,
        plan: &MemoryPlan,
        weights: WeightsInMemory,
    ) -> Result<MemoryNeeded, RunError> {
        let needed = plan.needed().map_err(RunError::from)?;
        let held = match weights {
            WeightsInMemory::NotLoaded => 0,
            WeightsInMemory::Loaded => needed.weights,
        };
        match self.limit(plan.device, held) {
            Some(limit) => Ok(plan.check_within(limit)?),
            None => Ok(needed),
        }
    }

    /// Compares the models of a command that trains nothing with `memory_gib`, or with what the device
    /// has free: policies that respond, and models of rewards and judges.
    ///
    /// # Errors
    /// [`RunError::Memory`]; [`RunError::Reward`] for a model that is not there.
    pub(crate) fn check_models<'a>(
        &self,
        device: Device,
        policies: impl IntoIterator<Item = LocalModel<'a>>,
        rewards: impl IntoIterator<Item = LocalModel<'a>>,
    ) -> Result<(), RunError> {
        // The number of rows may be smaller than a batch, so a single answer counts: what fits is not refused.
        fn alone(model: LocalModel<'_>) -> LocalModel<'_> {
            let answers = model.answers.map(|answers| AnswerBatch { rows: 1, ..answers });
            LocalModel { answers, ..model }
        }
        let models = HeldModels {
            policies: reward_models(policies.into_iter().map(alone), device)?,
            rewards: reward_models(rewards.into_iter().map(alone), device)?,
            ..HeldModels::on(device)
        };
        if let Some(limit) = self.limit(device, 0) {
            models.check_within(limit)?;
        }
        Ok(())
    }

    /// The limit of a run that already has some bytes in memory; `None` if it is unknown.
    fn limit(&self, device: Device, held: u64) -> Option<u64> {
        match self.memory_gib {
            Some(gib) => Some((gib * f64::from(1 << 30)) as u64),
            None => free_memory(device).map(|free| free + held),
        }
    }
}
