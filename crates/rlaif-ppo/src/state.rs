//! The state of a trainer in a checkpoint.

use rlaif_core::stats::RunningMoments;
use rlaif_lm::{Policy, generate::GenerationConfig};
use rlaif_rl::{check_resumed, restore_policy, save_policy};
use rlaif_train::{CheckpointFiles, OptimizerProgress, Saved, TrainError, restore_parameters};
use serde::{Deserialize, Serialize};

use crate::{error::PpoError, trainer::PpoTrainer};

/// The state of a trainer that is not a tensor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrainerState {
    step: u64,
    kl_coef: f64,
    moments: RunningMoments,
    optimizer: OptimizerProgress,
    /// Further settings that a resumed run must share to reproduce the original.
    seed: u64,
    generation: GenerationConfig,
}

impl<P: Policy> PpoTrainer<P> {
    /// Writes a trainer's whole state into a checkpoint: the trained weights, the value function,
    /// the optimizer, β, the running moments and the step.
    ///
    /// The caller has to save the state of the reward model and of the source of prompts.
    ///
    /// # Errors
    /// [`TrainError`] if a file cannot be written.
    ///
    /// ```no_run
    /// # fn save<P: rlaif_lm::Policy>(
    /// #     trainer: &rlaif_ppo::PpoTrainer<P>,
    /// #     checkpoints: &mut rlaif_train::Checkpoints,
    /// # ) -> Result<(), rlaif_train::TrainError> {
    /// checkpoints.write(trainer.steps_done(), None, |files| trainer.save(files))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        save_policy(files, &self.policy, &self.optimizer)?;
        files.tensors("value", &self.critic.0.parameters().trainable())?;
        let state = TrainerState {
            step: self.step,
            kl_coef: self.controller.coef(),
            moments: self.moments,
            optimizer: self.optimizer.progress(),
            seed: self.config.seed.get(),
            generation: self.config.generation.clone(),
        };
        files.json("ppo", &state)
    }

    /// Continues from a checkpoint, as if the run had never stopped. The trainer must be created as
    /// for that run: from the same weights, with the same settings.
    ///
    /// # Errors
    /// [`PpoError::State`] for another seed or other sampling, [`PpoError::Train`] if a file is
    /// missing or its tensors do not fit.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), PpoError> {
        let state: TrainerState = saved.json("ppo")?;
        let config = &self.config;
        check_resumed((config.seed, &config.generation), (state.seed, state.generation))?;
        restore_policy(saved, &self.policy, &mut self.optimizer, state.optimizer)?;
        let own = self.critic.0.parameters().trainable();
        restore_parameters(&own, &saved.tensors("value")?, "the value function")?;
        self.controller.restore(state.kl_coef);
        self.moments = state.moments;
        self.step = state.step;
        Ok(())
    }
}
