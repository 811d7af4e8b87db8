//! Reinforcement learning as a task of the shared training loop.

use std::mem::replace;

use rlaif_core::{RewardModel, TextCodec, undone_if_interrupted};
use rlaif_lm::{LocalSampler, Prompt, Sampler};
use rlaif_torch::dist::World;
use rlaif_train::{CheckpointFiles, Fit, Saved, Stepped, TrainError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::RlError,
    ranks::RankedSampler,
    trainer::{RlStep, RlTrainer},
    watch::Watch,
};

/// A trainer with its prompts, its sampler and its reward, for [`rlaif_train::drive`]: a step is a
/// rollout and an update. A [`Watch`] recognises symptoms and decides on early stopping.
///
/// The batches name the prompts of each step.
///
/// ```no_run
/// use rlaif_rl::{Prompt, RlTask, RlTrainer};
/// use rlaif_train::{Batches, FitConfig, FitPlan, Interrupt, RunFolder, drive};
/// # fn run<T: RlTrainer>(
/// #     trainer: T,
/// #     prompts: &[Prompt],
/// #     codec: &dyn rlaif_core::TextCodec,
/// #     reward: &dyn rlaif_core::RewardModel,
/// #     batches: &mut dyn Batches,
/// #     folder: &mut RunFolder,
/// # ) -> Result<T, Box<dyn std::error::Error>> {
/// let mut task = RlTask::new(trainer, prompts, codec, reward).samples(4);
/// let config = FitConfig { checkpoint_every: 10, ..FitConfig::default() };
/// let (total_steps, seed) = (200, rlaif_core::Seed::new(1));
/// let plan = FitPlan { config: &config, total_steps, seed, interrupt: &Interrupt::install()? };
/// drive(&mut task, batches, folder, None, &plan)?;
/// # Ok(task.into_trainer())
/// # }
/// ```
pub struct RlTask<'a, T> {
    trainer: T,
    prompts: &'a [Prompt],
    sampler: Box<dyn Sampler + 'a>,
    reward: &'a dyn RewardModel,
    samples: usize,
    watch: Watch,
    world: World,
    /// True once a warning about missing verdicts was given.
    told_unscored: bool,
}

impl<T> std::fmt::Debug for RlTask<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RlTask")
            .field("prompts", &self.prompts.len())
            .field("samples", &self.samples)
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}

impl<'a, T: RlTrainer> RlTask<'a, T> {
    /// Trains on the scores that `reward` gives to responses to `prompts`. The responses are
    /// sampled in this process.
    pub fn new(
        trainer: T,
        prompts: &'a [Prompt],
        codec: &'a dyn TextCodec,
        reward: &'a dyn RewardModel,
    ) -> Self {
        let sampler = Box::new(LocalSampler::new(codec));
        Self {
            trainer,
            prompts,
            sampler,
            reward,
            samples: 0,
            watch: Watch::default(),
            world: World::default(),
            told_unscored: false,
        }
    }

    /// Uses another sampler.
    #[must_use]
    pub fn sampler(mut self, sampler: impl Sampler + 'a) -> Self {
        self.sampler = Box::new(sampler);
        self
    }

    /// Writes the first `rows` responses of each step to `samples.jsonl`; none by default.
    #[must_use]
    pub fn samples(mut self, rows: usize) -> Self {
        self.samples = rows;
        self
    }

    /// The trainer.
    pub fn trainer(&self) -> &T {
        &self.trainer
    }

    /// Returns the trainer, for example for its policy.
    pub fn into_trainer(self) -> T {
        self.trainer
    }
}

/// The task's own state beside that of its trainer.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    watch: Watch,
    reward: Value,
}

impl<T: RlTrainer> Fit for RlTask<'_, T> {
    fn step(&mut self, rows: &[usize]) -> Result<Stepped, TrainError> {
        let RlStep { rollout, mut stats, mut notes } = undone_if_interrupted(self.reward, || {
            let mut sampler = RankedSampler::new(&mut *self.sampler, &self.world);
            self.trainer.step_on(self.prompts, rows, &mut sampler, self.reward)
        })?;
        // The stopping rule may name a metric of the reward. A trainer that looks ahead has added them: its reward has scored
        // the next step by now.
        if !self.trainer.looks_ahead() {
            stats.metrics.extend(self.reward.metrics().into_iter().collect());
        }
        let rules = self.trainer.stop_rules();
        notes.extend(rules.unknown_metric(&stats, T::SECTION));
        let unscored = rollout.as_ref().and_then(|rollout| rollout.unscored.clone());
        notes.extend(unscored.filter(|_| !replace(&mut self.told_unscored, true)));
        let mut stepped = Stepped { notes, ..Stepped::default() };
        // Without an update there are no statistics to check.
        if let Some(rollout) = &rollout {
            let shown = 0..self.samples.min(rollout.len());
            stepped.samples = shown.map(|row| rollout.sample(stats.step, row)).collect();
            stepped.findings = self.watch.observe(&stats, self.trainer.watched());
            stepped.stop = self.watch.stop(&stats, rules).map(|reason| reason.to_string());
        }
        Ok(Stepped { metrics: stats.metrics, ..stepped })
    }

    fn looks_ahead(&self) -> bool {
        self.trainer.looks_ahead()
    }

    fn announce(&mut self, rows: Vec<usize>) {
        self.trainer.announce(rows);
    }

    fn join(&mut self, world: &World) -> Result<(), TrainError> {
        self.trainer.join(world)?;
        self.world = world.clone();
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        self.trainer.messages()
    }

    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        let state = State { watch: self.watch.clone(), reward: self.reward.state() };
        files.json("task", &state)?;
        self.trainer.save(files)
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), TrainError> {
        let state: State = saved.json("task")?;
        self.watch = state.watch;
        self.reward.restore(&state.reward).map_err(RlError::from)?;
        Ok(self.trainer.restore(saved)?)
    }
}
