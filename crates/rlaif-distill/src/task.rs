//! Distillation as the loop that trainings share takes it.

use rlaif_core::{BadSetting, TextCodec};
use rlaif_lm::{LocalSampler, Policy, RecordedSampler, Sampled, Sampler};
use rlaif_rl::torch::dist::World;
use rlaif_rl::{Prompt, RankedSampler, RlError, sample_row};
use rlaif_train::{CheckpointFiles, Fit, Saved, Stepped, TrainError};

use crate::trainer::DistillTrainer;

/// A trainer with its prompts and its sampler, for [`rlaif_train::drive`].
pub struct DistillTask<'a, P> {
    trainer: DistillTrainer<P>,
    prompts: &'a [Prompt],
    sampler: Box<dyn Sampler + 'a>,
    references: Vec<Sampled>,
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
        let sampler = Box::new(LocalSampler::new(codec));
        Self { trainer, prompts, sampler, references: Vec::new(), samples: 0 }
    }

    /// Sets a reference response to each prompt, for the steps that are not on the student's own
    /// responses ([`crate::DistillConfig::on_policy`]).
    #[must_use]
    pub fn references(mut self, references: Vec<Sampled>) -> Self {
        self.references = references;
        self
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

    fn without_references(&self) -> RlError {
        let found = self.trainer.config().on_policy;
        let expected = "1, or a reference response to each prompt (`DistillTask::references`)";
        BadSetting::new("on_policy", found, expected).into()
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
        let on_policy = self.trainer.is_on_policy();
        let mut step = if on_policy {
            let world = self.trainer.world().clone();
            self.trainer.step(&prompts, &mut RankedSampler::new(&mut *self.sampler, &world))?
        } else {
            let own = rows.iter().map(|&row| self.references.get(row).cloned()).collect();
            let own: Option<Vec<Sampled>> = own;
            let own = own.ok_or_else(|| self.without_references())?;
            self.trainer.step(&prompts, &mut RecordedSampler::new(own))?
        };
        if self.trainer.config().on_policy < 1. {
            step.metrics.set("distill/on_policy", f64::from(u8::from(on_policy)));
        }
        let number = self.trainer.steps_done();
        let sample = |(prompt, response): (&Prompt, &Sampled)| {
            sample_row(number, &prompt.record, &response.text, response.finish, None)
        };
        let samples = prompts.iter().zip(&step.sampled).take(self.samples).map(sample).collect();
        Ok(Stepped { samples, ..Stepped::from(step.metrics) })
    }

    fn join(&mut self, world: &World) -> Result<(), TrainError> {
        Ok(self.trainer.join(world)?)
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
