//! The seam between an algorithm and its task.

use rlaif_core::RewardModel;
use rlaif_lm::Sampler;
use rlaif_train::{CheckpointFiles, Saved, TrainError};

use crate::{
    error::RlError,
    rollout::{Prompt, Rollout},
    stats::Stats,
    stop::StopConfig,
    watch::Watched,
};

/// An algorithm that learns from scored responses. With a [`crate::RlTask`] around it,
/// [`rlaif_train::drive`] gives it the loop: checkpoints, metrics, samples, findings, interrupts and
/// resuming.
///
/// `rlaif_ppo::PpoTrainer` and `rlaif_reinforce::ReinforceTrainer` implement it. Their stages are
/// public methods as well, for a loop of your own.
pub trait RlTrainer {
    /// The section of a run file that has the settings, such as `ppo`: messages name it.
    const SECTION: &'static str;

    /// One step: samples responses to the prompts with these indices, has them scored, and learns
    /// from them. An algorithm that samples further prompts takes them from the others.
    ///
    /// # Errors
    /// What stops the run.
    fn step_on(
        &mut self,
        prompts: &[Prompt],
        rows: &[usize],
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<RlStep, RlError>;

    /// The settings by which symptoms are recognised.
    fn watched(&self) -> Watched<'_>;

    /// The rules by which a run ends before its steps are done.
    fn stop_rules(&self) -> &StopConfig;

    /// Messages before the first step; none by default.
    fn messages(&self) -> Vec<String> {
        Vec::new()
    }

    /// Writes everything that a later step depends on, prompts and reward aside.
    ///
    /// # Errors
    /// What cannot be written.
    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError>;

    /// Goes on from what [`RlTrainer::save`] wrote.
    ///
    /// # Errors
    /// What does not fit.
    fn restore(&mut self, saved: &Saved) -> Result<(), RlError>;
}

/// Outcome of a step of an [`RlTrainer`].
#[derive(Debug)]
pub struct RlStep {
    /// The responses that were learned from; `None` if the step changed nothing, and its numbers
    /// are then not judged.
    pub rollout: Option<Rollout>,
    /// Numbers of the step.
    pub stats: Stats,
    /// Messages about the step.
    pub notes: Vec<String>,
}
