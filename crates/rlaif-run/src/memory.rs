//! The memory that a run needs: refused before it starts, rather than killed in the middle.

use rlaif_models::{
    AdapterConfig, LoadOptions, MemoryNeeded, MemoryPlan, ModelError, TrainedWeights,
};
use rlaif_torch::free_memory;
use tch::Kind;

use crate::{
    error::RunError,
    model::{LoraSection, ModelSection, Placement},
};

/// The weights that are in memory when a run is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightsInMemory {
    /// None of them: the run is checked before they are loaded.
    NotLoaded,
    /// All of them.
    Loaded,
}

/// Rows of one forward and backward pass, from a setting whose 0 means the whole batch.
pub fn rows_of_pass(microbatch: usize, batch: usize) -> usize {
    if microbatch == 0 { batch } else { microbatch.min(batch) }
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
        let files = self.files()?;
        let rank = match &files.adapter {
            Some(adapter) => Some(AdapterConfig::read(adapter).map_err(ModelError::from)?.r),
            None => self.lora.as_ref().map(LoraSection::check).transpose()?,
        };
        let trained =
            rank.map_or(TrainedWeights::All, |rank| TrainedWeights::Lora(rank.get() as usize));
        let kind = options.kind.unwrap_or(Kind::Float);
        let plan = MemoryPlan::new(files.folder, kind, options.device);
        Ok(MemoryPlan { trained, families: options.families, ..plan })
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
        let limit = match self.memory_gib {
            Some(gib) => Some((gib * f64::from(1 << 30)) as u64),
            None => free_memory(plan.device).map(|free| free + held),
        };
        match limit {
            Some(limit) => Ok(plan.check_within(limit)?),
            None => Ok(needed),
        }
    }
}
