//! The parts of a trainer that a checkpoint stores.

use rlaif_core::stats::RunningMoments;
use rlaif_lm::{Policy, generate::GenerationConfig};
use rlaif_rl::{RlError, check_resumed, restore_policy, save_policy};
use rlaif_train::{CheckpointFiles, OptimizerProgress, Saved, TrainError};
use serde::{Deserialize, Serialize};

use crate::{curriculum::PassRates, trainer::ReinforceTrainer};

/// The parts of a trainer that are not tensors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrainerState {
    step: u64,
    moments: RunningMoments,
    optimizer: OptimizerProgress,
    /// Settings that would change the result of a resumed run without an error.
    seed: u64,
    generation: GenerationConfig,
    /// Measured in the run, with a curriculum.
    #[serde(default, skip_serializing_if = "PassRates::is_empty")]
    pass_rates: PassRates,
}

impl<P: Policy> ReinforceTrainer<P> {
    /// Writes the state of the trainer to a checkpoint: the trained weights, the optimizer, the
    /// running moments and the step.
    ///
    /// The caller saves the state of the reward model and of the source of prompts.
    ///
    /// # Errors
    /// [`TrainError`] if a file cannot be written.
    pub fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        save_policy(files, &self.policy, &self.optimizer)?;
        let state = TrainerState {
            step: self.step,
            moments: self.moments,
            optimizer: self.optimizer.progress(),
            seed: self.config.seed.get(),
            generation: self.config.generation.clone(),
            pass_rates: self.pass_rates.clone(),
        };
        files.json("reinforce", &state)
    }

    /// Continues from a checkpoint as if the run had not stopped. Create the trainer as for
    /// that run: from the same weights, with the same settings.
    ///
    /// # Errors
    /// [`RlError::State`] for another seed or other sampling, [`RlError::Train`] if a file is
    /// missing or its tensors do not fit.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), RlError> {
        let state: TrainerState = saved.json("reinforce")?;
        let config = &self.config;
        check_resumed((config.seed, &config.generation), (state.seed, state.generation))?;
        restore_policy(saved, &self.policy, &mut self.optimizer, state.optimizer)?;
        self.moments = state.moments;
        self.pass_rates = state.pass_rates;
        self.step = state.step;
        Ok(())
    }
}
