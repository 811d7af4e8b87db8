//! Saves and restores the state of a trainer, so that a resumed run equals an uninterrupted one bit
//! by bit.

use rlaif_lm::{Parameters, Policy};
use rlaif_train::{CheckpointFiles, OptimizerProgress, Saved, restore_parameters};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{error::DpoError, loss::RunningMean, trainer::DpoTrainer};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrainerState {
    optimizer: OptimizerProgress,
    reward_shift: RunningMean,
}

impl<P: Policy> DpoTrainer<P> {
    /// Writes the trained weights, the optimizer, the running mean of BCO, and a reference that
    /// moves.
    ///
    /// # Errors
    /// [`DpoError::Train`] if a file cannot be written.
    pub fn save(&self, files: &mut CheckpointFiles) -> Result<(), DpoError> {
        files.tensors("policy", &self.policy().parameters().trainable())?;
        files.tensors("optimizer", &self.optimizer().state())?;
        if let Some(reference) = self.moving_reference() {
            files.tensors("reference", &named(reference))?;
        }
        let optimizer = self.optimizer().progress();
        let state = TrainerState { optimizer, reward_shift: self.reward_shift() };
        Ok(files.json("trainer", &state)?)
    }

    /// Continues from a checkpoint of a trainer with the same model and settings.
    ///
    /// # Errors
    /// [`DpoError::Train`] if the checkpoint is incomplete, or has another model's tensors.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), DpoError> {
        let state: TrainerState = saved.json("trainer")?;
        self.restore_weights(saved)?;
        if let Some(reference) = self.moving_reference() {
            restore_parameters(&named(reference), &saved.tensors("reference")?, "the reference")?;
        }
        let optimizer = saved.tensors("optimizer")?;
        self.optimizer_mut().restore(&optimizer, state.optimizer)?;
        self.set_reward_shift(state.reward_shift);
        Ok(())
    }

    /// Takes only the policy's weights from a checkpoint.
    ///
    /// # Errors
    /// As [`Self::restore`].
    pub fn restore_weights(&mut self, saved: &Saved) -> Result<(), DpoError> {
        let policy = self.policy().parameters().trainable();
        Ok(restore_parameters(&policy, &saved.tensors("policy")?, "the policy")?)
    }
}

fn named(parameters: &Parameters) -> Vec<(String, Tensor)> {
    parameters.iter().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect()
}
