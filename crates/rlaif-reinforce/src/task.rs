//! Policy gradients as the loop that trainings share takes them.

use rlaif_core::{RewardModel, TextCodec, undone_if_interrupted};
use rlaif_lm::{LocalSampler, Policy, Sampler};
use rlaif_rl::{Prompt, RlError, Watch, permutation};
use rlaif_train::{CheckpointFiles, Fit, Saved, Stepped, TrainError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::trainer::ReinforceTrainer;

/// A trainer with its prompts, its sampler and its reward, for [`rlaif_train::drive`]: a step is a
/// rollout and an update. Symptoms are found by a [`Watch`], which also knows when the run may end.
///
/// The batches name [`crate::ReinforceConfig::prompts_per_step`] prompts for each step. Dynamic
/// sampling takes further prompts in an order of its own for each step.
///
/// ```no_run
/// use rlaif_reinforce::{ReinforceTask, ReinforceTrainer, rl::Prompt};
/// use rlaif_train::{Batches, FitConfig, FitPlan, Interrupt, RunFolder, drive};
/// # fn run<P: rlaif_lm::Policy>(
/// #     trainer: ReinforceTrainer<P>,
/// #     prompts: &[Prompt],
/// #     codec: &dyn rlaif_core::TextCodec,
/// #     reward: &dyn rlaif_core::RewardModel,
/// #     batches: &mut dyn Batches,
/// #     folder: &mut RunFolder,
/// # ) -> Result<P, Box<dyn std::error::Error>> {
/// let (total_steps, seed) = (trainer.config().steps, trainer.config().seed);
/// let mut task = ReinforceTask::new(trainer, prompts, codec, reward).samples(4);
/// let config = FitConfig { checkpoint_every: 10, ..FitConfig::default() };
/// let plan = FitPlan { config: &config, total_steps, seed, interrupt: &Interrupt::install()? };
/// drive(&mut task, batches, folder, None, &plan)?;
/// # Ok(task.into_trainer().into_policy())
/// # }
/// ```
pub struct ReinforceTask<'a, P> {
    trainer: ReinforceTrainer<P>,
    prompts: &'a [Prompt],
    sampler: Box<dyn Sampler + 'a>,
    reward: &'a dyn RewardModel,
    samples: usize,
    watch: Watch,
}

impl<P> std::fmt::Debug for ReinforceTask<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReinforceTask")
            .field("prompts", &self.prompts.len())
            .field("samples", &self.samples)
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}

impl<'a, P: Policy> ReinforceTask<'a, P> {
    /// Trains on the scores that `reward` gives to responses to `prompts`, sampled in this process.
    pub fn new(
        trainer: ReinforceTrainer<P>,
        prompts: &'a [Prompt],
        codec: &'a dyn TextCodec,
        reward: &'a dyn RewardModel,
    ) -> Self {
        let sampler = Box::new(LocalSampler::new(codec));
        Self { trainer, prompts, sampler, reward, samples: 0, watch: Watch::default() }
    }

    /// Takes responses from another sampler.
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
    pub fn trainer(&self) -> &ReinforceTrainer<P> {
        &self.trainer
    }

    /// The trainer, for its policy.
    pub fn into_trainer(self) -> ReinforceTrainer<P> {
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

impl<P: Policy> Fit for ReinforceTask<'_, P> {
    fn step(&mut self, rows: &[usize]) -> Result<Stepped, TrainError> {
        let prompts: Vec<Prompt> = rows.iter().map(|&row| self.prompts[row].clone()).collect();
        let seed = self.trainer.config().seed.derive("spare", self.trainer.steps_done());
        let dynamic = self.trainer.config().settings().dynamic_sampling.rounds > 0;
        // The order is drawn where it is needed alone: data may be large.
        let order = if dynamic { permutation(self.prompts.len(), seed) } else { Vec::new() };
        let others = order.into_iter().filter(|row| !rows.contains(row));
        let mut spare = others.map(|row| self.prompts[row].clone());
        let (experience, mut stats) = undone_if_interrupted(self.reward, || {
            self.trainer.step(&prompts, &mut spare, &mut *self.sampler, self.reward)
        })?;
        // The stopping rule may name a number of the reward's.
        stats.metrics.extend(self.reward.metrics().into_iter().collect());
        let config = self.trainer.config();
        let samples = experience.iter().flat_map(|experience| {
            let rollout = &experience.rollout;
            (0..self.samples.min(rollout.len())).map(|row| rollout.sample(stats.step, row))
        });
        let samples = samples.collect();
        let mut notes: Vec<String> =
            config.stop.unknown_metric(&stats, "reinforce").into_iter().collect();
        if experience.is_none() {
            notes.push(format!(
                "warning: step {} has no group whose scores differ, and changes nothing; take \
                 prompts of another difficulty, or a reward with more values",
                stats.step
            ));
        }
        // Without an update there are no numbers to judge by.
        let findings = match experience {
            Some(_) => self.watch.observe(&stats, config),
            None => Vec::new(),
        };
        let stop = match experience {
            Some(_) => self.watch.stop(&stats, &config.stop).map(|reason| reason.to_string()),
            None => None,
        };
        Ok(Stepped { samples, notes, findings, stop, metrics: stats.metrics })
    }

    fn warnings(&self) -> Vec<String> {
        self.trainer.warnings().to_vec()
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
