//! PPO as a task of the common training loop.

use rlaif_core::{RewardModel, TextCodec, undone_if_interrupted};
use rlaif_lm::Policy;
use rlaif_train::{CheckpointFiles, Fit, Saved, Stepped, TrainError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Prompt, Watch, error::PpoError, trainer::PpoTrainer};

/// A trainer with its prompts and its reward, for [`rlaif_train::drive`]: a step is a rollout and
/// an update. A [`Watch`] detects symptoms of failure, and decides if the run may stop early.
///
/// Each batch consists of `batch_size` prompts.
///
/// ```no_run
/// use rlaif_ppo::{PpoTask, PpoTrainer, Prompt};
/// use rlaif_train::{Batches, FitConfig, FitPlan, Interrupt, RunFolder, drive};
/// # fn run<P: rlaif_lm::Policy>(
/// #     trainer: PpoTrainer<P>,
/// #     prompts: &[Prompt],
/// #     codec: &dyn rlaif_core::TextCodec,
/// #     reward: &dyn rlaif_core::RewardModel,
/// #     batches: &mut dyn Batches,
/// #     folder: &mut RunFolder,
/// # ) -> Result<P, Box<dyn std::error::Error>> {
/// let (total_steps, seed) = (trainer.config().steps, trainer.config().seed);
/// let mut task = PpoTask::new(trainer, prompts, codec, reward).samples(4);
/// let config = FitConfig { checkpoint_every: 10, ..FitConfig::default() };
/// let plan = FitPlan { config: &config, total_steps, seed, interrupt: &Interrupt::install()? };
/// drive(&mut task, batches, folder, None, &plan)?;
/// # Ok(task.into_trainer().into_policy())
/// # }
/// ```
pub struct PpoTask<'a, P> {
    trainer: PpoTrainer<P>,
    prompts: &'a [Prompt],
    codec: &'a dyn TextCodec,
    reward: &'a dyn RewardModel,
    samples: usize,
    watch: Watch,
}

impl<P> std::fmt::Debug for PpoTask<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PpoTask")
            .field("prompts", &self.prompts.len())
            .field("samples", &self.samples)
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}

impl<'a, P: Policy> PpoTask<'a, P> {
    /// Trains on the scores that `reward` gives to responses to `prompts`.
    pub fn new(
        trainer: PpoTrainer<P>,
        prompts: &'a [Prompt],
        codec: &'a dyn TextCodec,
        reward: &'a dyn RewardModel,
    ) -> Self {
        Self { trainer, prompts, codec, reward, samples: 0, watch: Watch::default() }
    }

    /// Writes the first `rows` responses of each step to `samples.jsonl`; none by default.
    #[must_use]
    pub fn samples(mut self, rows: usize) -> Self {
        self.samples = rows;
        self
    }

    /// The trainer.
    pub fn trainer(&self) -> &PpoTrainer<P> {
        &self.trainer
    }

    /// The trainer, for its policy and value function.
    pub fn into_trainer(self) -> PpoTrainer<P> {
        self.trainer
    }
}

/// The state of the task besides its trainer.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    watch: Watch,
    reward: Value,
}

impl<P: Policy> Fit for PpoTask<'_, P> {
    fn step(&mut self, rows: &[usize]) -> Result<Stepped, TrainError> {
        let prompts: Vec<Prompt> = rows.iter().map(|&row| self.prompts[row].clone()).collect();
        let (rollout, mut stats) = undone_if_interrupted(self.reward, || {
            self.trainer.step(&prompts, self.codec, self.reward)
        })?;
        // The stopping rule may refer to a metric of the reward.
        stats.metrics.extend(self.reward.metrics().into_iter().collect());
        let config = self.trainer.config();
        Ok(Stepped {
            samples: (0..self.samples.min(rollout.len()))
                .map(|row| rollout.sample(stats.step, row))
                .collect(),
            notes: config.stop.unknown_metric(&stats, "ppo").into_iter().collect(),
            findings: self.watch.observe(&stats, config),
            stop: self.watch.stop(&stats, &config.stop).map(|reason| reason.to_string()),
            metrics: stats.metrics,
        })
    }

    fn warnings(&self) -> Vec<String> {
        let concerns = self.trainer.warnings().iter();
        concerns.map(|concern| format!("rollout: `{}` {concern}", concern.setting())).collect()
    }

    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        let state = State { watch: self.watch.clone(), reward: self.reward.state() };
        files.json("task", &state)?;
        self.trainer.save(files)
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), TrainError> {
        let state: State = saved.json("task")?;
        self.watch = state.watch;
        self.reward.restore(&state.reward).map_err(PpoError::from)?;
        Ok(self.trainer.restore(saved)?)
    }
}
