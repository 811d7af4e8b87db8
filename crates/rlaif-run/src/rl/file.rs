//! One recipe for the run files of reinforcement learning.

use rlaif_lm::{LocalSampler, Policy, Sampler};
use rlaif_models::{LanguageModel, LoadOptions, MemoryPlan};
use rlaif_rewards::RewardConfig;
use rlaif_rl::{Prompt, RlError, RlTask, RlTrainer};
use rlaif_text::HfTokenizer;
use rlaif_train::RunFolder;

use crate::{
    error::RunError,
    file::RunFile,
    memory::{WeightsInMemory, reward_models},
    recipe::{Basics, Recipe, Start},
    rl::{
        environment::EnvironmentConfig,
        prompts::RlPrompts,
        run::PromptRun,
        sections::{RlSections, RlSettings, within},
        servers::servers,
    },
};

/// A run file of reinforcement learning: the parts in which algorithms differ. Every type that
/// implements this is a [`Recipe`], with the same code to load models and prompts, check memory and
/// drive an [`RlTask`].
pub trait RlFile: RunFile {
    /// Metrics for the terminal.
    const SHOWN: &'static [&'static str];

    /// The algorithm.
    type Trainer: RlTrainer;

    /// The sections that all run files of reinforcement learning share.
    fn sections(&self) -> RlSections<'_>;

    /// Settings of the algorithm's own section.
    fn settings(&self) -> RlSettings<'_>;

    /// The reward that scores responses.
    fn reward(&self) -> &RewardConfig;

    /// Checks the algorithm's own section.
    ///
    /// # Errors
    /// [`RlError`] names the first invalid field, or the fields that contradict each other.
    fn check_settings(&self) -> Result<(), RlError>;

    /// Loads the models and creates the trainer. New weights are drawn from libtorch's generator;
    /// [`RlFile::trainer`] seeds it.
    ///
    /// # Errors
    /// [`RunError`] for a model that cannot be loaded, or settings that do not fit it.
    fn fresh_trainer(&self, options: LoadOptions) -> Result<Self::Trainer, RunError>;

    /// The trained policy.
    fn policy(trainer: &Self::Trainer) -> &LanguageModel;

    /// The trained policy, for its adapters. Parameters stay the trainer's.
    fn policy_mut(trainer: &mut Self::Trainer) -> &mut LanguageModel;

    /// Completes the trainer with everything besides models and prompts. The returned text is
    /// appended to the line that describes the run.
    ///
    /// # Errors
    /// [`RunError`] for files that the run file names.
    fn complete(
        &self,
        trainer: Self::Trainer,
        codec: &HfTokenizer,
    ) -> Result<(Self::Trainer, String), RunError>;

    /// Writes the results other than the policy to the run's folder, and returns the policy.
    ///
    /// # Errors
    /// [`RunError`] of writing.
    fn finish(trainer: Self::Trainer, folder: &RunFolder) -> Result<LanguageModel, RunError>;

    /// Memory that the run needs for these prompts; without prompts, the minimum.
    ///
    /// # Errors
    /// [`RunError::Fetch`]; [`RunError::Reward`] for a reward's model.
    fn memory(&self, options: LoadOptions, prompts: &[Prompt]) -> Result<MemoryPlan, RunError> {
        let plan = self.sections().memory(self.settings(), options, prompts)?;
        let rewards = reward_models(self.reward().local_models(), options.device)?;
        Ok(MemoryPlan { rewards, ..plan })
    }

    /// Loads the models and creates the trainer. New weights depend only on the seed.
    ///
    /// # Errors
    /// [`RunError`] for a model that cannot be loaded, settings that do not fit it, or a run that
    /// does not fit into memory.
    fn trainer(&self, options: LoadOptions) -> Result<Self::Trainer, RunError> {
        let memory = self.memory(options, &[])?;
        self.sections().fresh(&memory, || self.fresh_trainer(options))
    }

    /// Reads the prompts that fit, and counts the others.
    ///
    /// # Errors
    /// [`RunError::Data`], [`RunError::Codec`]; [`RunError::Setting`] if there are fewer than a
    /// step needs.
    fn prompts(&self, codec: &HfTokenizer, policy: &dyn Policy) -> Result<RlPrompts, RunError> {
        let reward = Some(self.reward());
        self.sections().prompts(self.settings(), reward, codec, policy.spec())
    }
}

impl<F: RlFile> Recipe for F {
    const SHOWN: &'static [&'static str] = F::SHOWN;
    const DATA_PARALLEL: bool = true;

    fn basics(&self) -> Basics<'_> {
        let RlSections { seed, placement, model, .. } = self.sections();
        Basics { seed, placement, model }
    }

    fn check(&self) -> Result<(), RunError> {
        self.check_settings().map_err(in_section::<F>)?;
        self.settings().check()?;
        self.sections().check()
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let trainer = self.trainer(start.options)?;
        let tokenizer = self.sections().tokenizer(F::policy(&trainer))?;
        let (mut trainer, more) = self.complete(trainer, &tokenizer)?;
        let prompts = self.prompts(&tokenizer, F::policy(&trainer))?;
        let mut run = PromptRun::new(self.sections(), self.settings(), prompts)?;
        let memory = self.memory(start.options, &run.prompts)?;
        start.check_memory(&memory, WeightsInMemory::Loaded)?;
        // Checked before anything is written.
        let rendering = self.sections().prompt.rendering();
        let (reward, grades) = start.graded_reward(self.reward(), &rendering)?;
        run.notes.extend(grades);
        let how = (rendering, self.sections().seed);
        let place = (self.sections().model, start.folder());
        let vllm = self.settings().vllm;
        let servers = servers(vllm, F::policy_mut(&mut trainer), &tokenizer, place)?;
        let mut sampler: Option<Box<dyn Sampler + '_>> = None;
        if let Some((servers, told)) = servers {
            run.notes.push(told);
            sampler = Some(Box::new(servers));
        }
        if let Some((environment, episodes)) = self.settings().environment {
            EnvironmentConfig::check_policy(F::policy(&trainer).spec())?;
            let inner = sampler.unwrap_or_else(|| Box::new(LocalSampler::new(&tokenizer)));
            sampler = Some(Box::new(environment.sampler(inner, episodes, &tokenizer, how)?));
        }
        let policy = F::policy(&trainer);
        let mut ongoing = run.begin(start, (policy, &tokenizer), &more)?;
        let task = RlTask::new(trainer, &run.prompts, &tokenizer, &*reward);
        let mut task = task.samples(self.sections().train.samples);
        if let Some(sampler) = sampler {
            task = task.sampler(sampler);
        }
        ongoing.drive(&mut task, &mut run.batches)?;
        let mut policy = F::finish(task.into_trainer(), &ongoing.folder)?;
        ongoing.write(&mut policy)
    }
}

/// The error of a trainer, with the section of its field.
pub(crate) fn in_section<F: RlFile>(error: RlError) -> RunError {
    within(F::Trainer::SECTION, error)
}
