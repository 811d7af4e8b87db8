//! Policy gradients for the loop that trainings share.

use rlaif_core::{Metrics, RewardModel};
use rlaif_lm::{Policy, Sampler};
use rlaif_rl::{Prompt, RlError, RlStep, RlTask, RlTrainer, StopConfig, Watched, join_ranks};
use rlaif_torch::{
    TorchError,
    dist::{DistError, World},
};
use rlaif_train::{CheckpointFiles, Saved, TrainError};

use crate::{
    collect::Asked,
    replay::Rollouts,
    trainer::{Choice, ReinforceTrainer},
};

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
        let of = |rows: &[usize]| -> Vec<Prompt> {
            rows.iter().map(|&row| prompts[row].clone()).collect()
        };
        let mut spare = choice.spare.iter().map(|&row| prompts[row].clone());
        let asked = Asked { prompts: &of(&choice.rows), spare: &mut spare };
        let next = self.ahead.announced.take();
        let found = self.gather(asked, sampler, reward)?;
        let nothing = Choice { rows: Vec::new(), spare: Vec::new(), metrics: Metrics::default() };
        // The pass rates of this step's responses are known now.
        let next = next.map(|rows| self.choose_for(self.steps_done() + 1, prompts, &rows));
        let Choice { rows, spare, .. } = next.as_ref().unwrap_or(&nothing);
        let (own, mut spare) = (of(rows), spare.iter().map(|&row| prompts[row].clone()));
        let next = next.is_some().then_some(Asked { prompts: &own, spare: &mut spare });
        let (experience, mut stats) = self.finish(found, next, sampler, reward)?;
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

    fn looks_ahead(&self) -> bool {
        self.config().rollouts == Rollouts::Asynchronous
    }

    fn announce(&mut self, rows: Vec<usize>) {
        self.ahead.announced = Some(rows);
    }

    fn join(&mut self, world: &World) -> Result<(), RlError> {
        if self.looks_ahead() && world.size() > 1 {
            // Sampling and gradients would be exchanged at the same time.
            let (what, size) = ("`reinforce.rollouts = \"asynchronous\"`".to_owned(), world.size());
            return Err(TorchError::from(DistError::OneProcess { what, size }).into());
        }
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
