//! Distillation as the loop that trainings share takes it.

use rlaif_core::TextCodec;
use rlaif_lm::{LocalSampler, Policy, Sampler};
use rlaif_rl::Prompt;
use rlaif_train::{CheckpointFiles, Fit, Saved, Stepped, TrainError};
use serde_json::json;

use crate::trainer::DistillTrainer;

/// A trainer with its prompts and its sampler, for [`rlaif_train::drive`].
pub struct DistillTask<'a, P> {
    trainer: DistillTrainer<P>,
    prompts: &'a [Prompt],
    sampler: Box<dyn Sampler + 'a>,
    samples: usize,
}

impl<P: Policy> std::fmt::Debug for DistillTask<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DistillTask")
            .field("trainer", &self.trainer)
            .field("prompts", &self.prompts.len())
            .field("samples", &self.samples)
            .finish_non_exhaustive()
    }
}

impl<'a, P: Policy> DistillTask<'a, P> {
    /// Trains on responses to `prompts`, sampled in this process.
    pub fn new(
        trainer: DistillTrainer<P>,
        prompts: &'a [Prompt],
        codec: &'a dyn TextCodec,
    ) -> Self {
        Self { trainer, prompts, sampler: Box::new(LocalSampler::new(codec)), samples: 0 }
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
    pub fn trainer(&self) -> &DistillTrainer<P> {
        &self.trainer
    }

    /// The trainer, for its policy.
    pub fn into_trainer(self) -> DistillTrainer<P> {
        self.trainer
    }
}

impl<P: Policy> Fit for DistillTask<'_, P> {
    fn step(&mut self, rows: &[usize]) -> Result<Stepped, TrainError> {
        let prompts: Vec<Prompt> = rows.iter().map(|&row| self.prompts[row].clone()).collect();
        let step = self.trainer.step(&prompts, &mut *self.sampler)?;
        let number = self.trainer.steps_done();
        let sample = |(prompt, response): (&Prompt, &rlaif_lm::Sampled)| json!({"step": number, "prompt": prompt.record.prompt, "response": response.text});
        let samples = prompts.iter().zip(&step.sampled).take(self.samples).map(sample).collect();
        Ok(Stepped { samples, ..Stepped::from(step.metrics) })
    }

    fn warnings(&self) -> Vec<String> {
        self.trainer.warnings().to_vec()
    }

    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        self.trainer.save(files)
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), TrainError> {
        Ok(self.trainer.restore(saved)?)
    }
}
