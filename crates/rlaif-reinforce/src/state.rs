//! The parts of a trainer that a checkpoint stores.

use rlaif_core::stats::RunningMoments;
use rlaif_lm::{Parameters, Policy, generate::GenerationConfig};
use rlaif_rl::{RlError, check_resumed, restore_policy, save_policy};
use rlaif_train::{CheckpointFiles, OptimizerProgress, Saved, TrainError, restore_parameters};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{
    ahead::Prepared,
    collect::Collected,
    curriculum::{PassRates, Solved},
    group::{Group, SavedGroup},
    replay::{Buffer, Replay, Rollouts},
    trainer::ReinforceTrainer,
};

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
    #[serde(default)]
    rollouts: Rollouts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replay: Option<Replay>,
    /// The file with responses that were sampled ahead.
    #[serde(default)]
    prepared: SavedPrepared,
}

/// The responses of the step that comes.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SavedPrepared {
    #[default]
    Nothing,
    /// In `ahead`.
    Sampled,
    /// Not there yet; the weights that sample them are in `sampler`.
    Owed,
}

/// Responses that were sampled ahead.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedAhead {
    groups: Vec<SavedGroup>,
    left_out: usize,
    solved: Vec<Solved>,
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
            rollouts: self.config.rollouts,
            replay: self.config.replay,
            prepared: self.save_ahead(files)?,
        };
        if self.config.replay.is_some() {
            let groups: Vec<SavedGroup> = self.buffer.0.iter().map(SavedGroup::from).collect();
            files.json("replay", &groups)?;
        }
        files.json("reinforce", &state)
    }

    fn save_ahead(&self, files: &mut CheckpointFiles) -> Result<SavedPrepared, TrainError> {
        match &self.ahead.prepared {
            Prepared::Nothing => Ok(SavedPrepared::Nothing),
            Prepared::Sampled(Collected { groups, left_out, solved, seconds: _ }) => {
                let groups = groups.iter().map(SavedGroup::from).collect();
                let (left_out, solved) = (*left_out, solved.clone());
                files.json("ahead", &SavedAhead { groups, left_out, solved })?;
                Ok(SavedPrepared::Sampled)
            }
            Prepared::Owed => {
                let copy = self.ahead.copy.iter();
                let weights: Vec<(String, Tensor)> = copy
                    .flat_map(|copy| trained_of(self.policy.parameters(), copy.parameters()))
                    .collect();
                files.tensors("sampler", &weights)?;
                Ok(SavedPrepared::Owed)
            }
        }
    }

    fn restore_ahead(&mut self, saved: &Saved, prepared: &SavedPrepared) -> Result<(), RlError> {
        self.ahead.prepared = match prepared {
            SavedPrepared::Nothing => Prepared::Nothing,
            SavedPrepared::Sampled => {
                let SavedAhead { groups, left_out, solved } = saved.json("ahead")?;
                let groups = groups.into_iter().map(Group::from).collect();
                Prepared::Sampled(Collected { groups, left_out, solved, seconds: Vec::new() })
            }
            SavedPrepared::Owed => {
                let copy = self.ahead.copy()?;
                let own = trained_of(self.policy.parameters(), copy.parameters());
                restore_parameters(&own, &saved.tensors("sampler")?, "the sampler")?;
                Prepared::Owed
            }
        };
        Ok(())
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
        let differs = |what: &str, expected: String, found: String| {
            Err(RlError::State { what: what.to_owned(), expected, found })
        };
        if state.rollouts != config.rollouts {
            return differs("rollouts", as_json(&config.rollouts), as_json(&state.rollouts));
        }
        if state.replay != config.replay {
            return differs("replay", as_json(&config.replay), as_json(&state.replay));
        }
        restore_policy(saved, &self.policy, &mut self.optimizer, state.optimizer)?;
        self.restore_ahead(saved, &state.prepared)?;
        self.buffer = Buffer::default();
        if self.config.replay.is_some() {
            let groups: Vec<SavedGroup> = saved.json("replay")?;
            self.buffer.0 = groups.into_iter().map(Group::from).collect();
        }
        self.moments = state.moments;
        self.pass_rates = state.pass_rates;
        self.step = state.step;
        Ok(())
    }
}

/// The weights of a copy that the policy trains.
fn trained_of(policy: &Parameters, copy: &Parameters) -> Vec<(String, Tensor)> {
    let trained = policy.trainable().into_iter();
    trained
        .filter_map(|(name, _)| copy.get(&name).map(|own| (name.clone(), own.shallow_clone())))
        .collect()
}

/// The value as a run file's reader knows it.
fn as_json(setting: &impl Serialize) -> String {
    serde_json::to_string(setting).unwrap_or_default()
}
