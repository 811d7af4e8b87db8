//! PPO as a task of the common training loop.

use rlaif_core::RewardModel;
use rlaif_lm::{Policy, Sampler};
use rlaif_rl::{
    Prompt, RlStep, RlTask, RlTrainer, StopConfig, Watched, join_ranks, rollout_messages,
};
use rlaif_torch::dist::World;
use rlaif_train::{CheckpointFiles, Saved, TrainError, same_weights};

use crate::{error::PpoError, trainer::PpoTrainer};

/// A trainer with its prompts and its reward, for [`rlaif_train::drive`]. The batches name
/// `batch_size` prompts for each step.
pub type PpoTask<'a, P> = RlTask<'a, PpoTrainer<P>>;

impl<P: Policy> RlTrainer for PpoTrainer<P> {
    const SECTION: &'static str = "ppo";

    fn step_on(
        &mut self,
        prompts: &[Prompt],
        rows: &[usize],
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<RlStep, PpoError> {
        let prompts: Vec<Prompt> = rows.iter().map(|&row| prompts[row].clone()).collect();
        let (rollout, stats) = self.step_from(sampler, &prompts, reward)?;
        Ok(RlStep { rollout: Some(rollout), stats, notes: Vec::new() })
    }

    fn join(&mut self, world: &World) -> Result<(), PpoError> {
        self.config.compatibility.check_processes(world)?;
        same_weights(world, self.critic.0.parameters())?;
        Ok(join_ranks(world, &self.policy, &self.reference, &mut self.optimizer)?)
    }

    fn watched(&self) -> Watched<'_> {
        self.config().into()
    }

    fn stop_rules(&self) -> &StopConfig {
        &self.config().stop
    }

    fn messages(&self) -> Vec<String> {
        rollout_messages(self.warnings())
    }

    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        self.save(files)
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), PpoError> {
        self.restore(saved)
    }
}
