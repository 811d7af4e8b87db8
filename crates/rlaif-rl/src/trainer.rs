//! The interface between an algorithm and its task.

use rlaif_core::RewardModel;
use rlaif_lm::{Prompt, Sampler};
use rlaif_torch::{
    TorchError,
    dist::{DistError, World},
};
use rlaif_train::{CheckpointFiles, Saved, TrainError};

use crate::{error::RlError, rollout::Rollout, stats::Stats, stop::StopConfig, watch::Watched};

/// An algorithm that learns from scored responses. [`crate::RlTask`] wraps it for
/// [`rlaif_train::drive`], which adds the loop: checkpoints, metrics, samples, findings, interrupts
/// and resuming.
///
/// `rlaif_ppo::PpoTrainer` and `rlaif_reinforce::ReinforceTrainer` implement this trait. Their
/// stages are also public methods, for a loop of your own.
pub trait RlTrainer {
    /// The section of a run file with the settings, such as `ppo`; messages name it.
    const SECTION: &'static str;

    /// One step: samples responses to the prompts with these indices, scores them, and trains on
    /// them. An algorithm that samples further prompts takes them from the others.
    ///
    /// # Errors
    /// The errors that stop the run.
    fn step_on(
        &mut self,
        prompts: &[Prompt],
        rows: &[usize],
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<RlStep, RlError>;

    /// `true` if a step samples the responses of the next one: [`RlTrainer::announce`] then names its prompts. `false`
    /// by default.
    fn looks_ahead(&self) -> bool {
        false
    }

    /// Names the prompts of the step after the next call of [`RlTrainer::step_on`]. It is not called before the last
    /// step.
    fn announce(&mut self, rows: Vec<usize>) {
        let _ = rows;
    }

    /// Trains together with other ranks: each calls [`RlTrainer::step_on`] with the same prompts, and gets the same
    /// responses and scores. By default, several ranks are refused.
    ///
    /// # Errors
    /// [`RlError::Torch`], [`RlError::Train`].
    fn join(&mut self, world: &World) -> Result<(), RlError> {
        match world.size() {
            1 => Ok(()),
            size => {
                let what = format!("the algorithm `{}`", Self::SECTION);
                Err(TorchError::from(DistError::OneProcess { what, size }).into())
            }
        }
    }

    /// The settings that recognise symptoms.
    fn watched(&self) -> Watched<'_>;

    /// The rules for ending a run before its steps are done.
    fn stop_rules(&self) -> &StopConfig;

    /// Messages before the first step; none by default.
    fn messages(&self) -> Vec<String> {
        Vec::new()
    }

    /// Writes everything that a later step depends on, except for prompts and reward.
    ///
    /// # Errors
    /// An error of writing.
    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError>;

    /// Continues from the state that [`RlTrainer::save`] wrote.
    ///
    /// # Errors
    /// The saved state does not fit this trainer.
    fn restore(&mut self, saved: &Saved) -> Result<(), RlError>;
}

/// Outcome of a step of an [`RlTrainer`].
#[derive(Debug)]
pub struct RlStep {
    /// The responses of the update; `None` if the step changed nothing, and then its statistics are
    /// not checked.
    pub rollout: Option<Rollout>,
    /// Statistics of the step.
    pub stats: Stats,
    /// Messages about the step.
    pub notes: Vec<String>,
}
