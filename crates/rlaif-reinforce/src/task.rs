//! Policy gradients for the loop that trainings share.

use rlaif_core::RewardModel;
use rlaif_lm::{Policy, Sampler};
use rlaif_rl::{Prompt, RlError, RlStep, RlTask, RlTrainer, StopConfig, Watched, join_ranks};
use rlaif_torch::dist::World;
use rlaif_train::{CheckpointFiles, Saved, TrainError};

use crate::trainer::ReinforceTrainer;

/// A trainer with its prompts and its reward, for [`rlaif_train::drive`]. The batches name
/// [`crate::ReinforceConfig::prompts_per_step`] prompts for each step. Dynamic sampling takes further
/// prompts in an order of its own for each step.
pub type ReinforceTask<'a, P> = RlTask<'a, ReinforceTrainer<P>>;

impl<P: Policy> RlTrainer for ReinforceTrainer<P> {
    const SECTION: &'static str = "reinforce";

    fn step_on(
        &mut self,
        prompts: &[Prompt],
        rows: &[usize],
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<RlStep, RlError> {
        let choice = self.choose(prompts, rows);
        let own: Vec<Prompt> = choice.rows.iter().map(|&row| prompts[row].clone()).collect();
        let mut spare = choice.spare.iter().map(|&row| prompts[row].clone());
        let (experience, mut stats) = self.step(&own, &mut spare, sampler, reward)?;
        stats.metrics.extend(choice.metrics);
        let mut notes = Vec::new();
        if experience.is_none() {
            notes.push(format!(
                "warning: step {} has no group whose scores differ, and changes nothing; take \
                 prompts of another difficulty, or a reward with more values",
                stats.step
            ));
        }
        Ok(RlStep { rollout: experience.map(|experience| experience.rollout), stats, notes })
    }

    fn join(&mut self, world: &World) -> Result<(), RlError> {
        Ok(join_ranks(world, &self.policy, &self.reference, &mut self.optimizer)?)
    }

    fn watched(&self) -> Watched<'_> {
        self.config().into()
    }

    fn stop_rules(&self) -> &StopConfig {
        &self.config().stop
    }

    fn messages(&self) -> Vec<String> {
        self.warnings().to_vec()
    }

    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        self.save(files)
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), RlError> {
        self.restore(saved)
    }
}
