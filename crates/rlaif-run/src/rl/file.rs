//! One recipe for the run files of reinforcement learning.

use rlaif_core::{BadSetting, Seed, TextCodec};
use rlaif_lm::{Activations, Policy, generate::GenerationConfig};
use rlaif_models::{LanguageModel, LoadOptions, MemoryPlan};
use rlaif_rewards::RewardConfig;
use rlaif_rl::{Prompt, RlError, RlTask, RlTrainer};
use rlaif_text::HfTokenizer;
use rlaif_torch::seeded;
use rlaif_train::{RunFolder, Trainable};

use crate::{
    data::ShuffledBatches,
    error::RunError,
    file::RunFile,
    memory::{WeightsInMemory, longest},
    model::{ModelSection, Placement, tokenizer},
    prompt::PromptSection,
    recipe::{Basics, Outline, Recipe, Start},
    rl::{
        models::files_of,
        prompts::{Needed, PromptData, RlPrompts},
        section::RlTrainSection,
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

    /// Memory that the run needs for these prompts, without rewards; without prompts, the minimum.
    ///
    /// # Errors
    /// [`RunError::Fetch`].
    fn memory(&self, options: LoadOptions, prompts: &[Prompt]) -> Result<MemoryPlan, RunError> {
        let folder = |location: &String| files_of(location).map(|files| files.folder);
        let (sections, settings) = (self.sections(), self.settings());
        let mut plan = MemoryPlan {
            copy: sections.needs_reference && sections.reference.is_none(),
            value: sections.value.map(folder).transpose()?,
            frozen: sections.reference.into_iter().map(folder).collect::<Result<_, _>>()?,
            activations: settings.activations,
            ..sections.model.memory(options)?
        };
        if !prompts.is_empty() {
            let generation = settings.generation;
            plan.microbatch = settings.microbatch;
            plan.batch = generation.batch_size.min(settings.responses);
            plan.tokens =
                longest(prompts.iter().map(|prompt| prompt.ids.len())) + generation.max_new_tokens;
        }
        Ok(plan)
    }

    /// Loads the models and creates the trainer. New weights depend only on the seed.
    ///
    /// # Errors
    /// [`RunError`] for a model that cannot be loaded, settings that do not fit it, or a run that
    /// does not fit into memory.
    fn trainer(&self, options: LoadOptions) -> Result<Self::Trainer, RunError> {
        let RlSections { seed, placement, .. } = self.sections();
        placement.check_memory(&self.memory(options, &[])?, WeightsInMemory::NotLoaded)?;
        seeded(Seed::new(seed).for_libtorch("init"), || self.fresh_trainer(options))?
    }

    /// Reads the prompts that fit, and counts the others.
    ///
    /// # Errors
    /// [`RunError::Data`], [`RunError::Codec`]; [`RunError::Setting`] if there are fewer than a
    /// step needs.
    fn prompts(&self, codec: &HfTokenizer, policy: &dyn Policy) -> Result<RlPrompts, RunError> {
        let (sections, settings) = (self.sections(), self.settings());
        let (rows, because) = settings.prompts;
        let new_tokens = settings.generation.max_new_tokens;
        let mut columns = sections.reward.columns();
        columns.extend(settings.pass_rates.map(|(_, column)| column.to_owned()));
        let needed = Needed { new_tokens, columns, rows, because };
        let read = sections.data.read(sections.prompt, codec, policy.spec(), needed)?;
        if let Some((key, column)) = settings.pass_rates {
            check_pass_rates(&read.prompts, key, column)?;
        }
        Ok(read)
    }
}

/// The sections that all run files of reinforcement learning share.
#[derive(Debug, Clone, Copy)]
pub struct RlSections<'a> {
    /// The seed of all random numbers.
    pub seed: u64,
    /// The policy.
    pub model: &'a ModelSection,
    /// The trained weights.
    pub trainable: &'a Trainable,
    /// Device, threads and memory.
    pub placement: &'a Placement,
    /// The prompts.
    pub data: &'a PromptData,
    /// The text of a prompt.
    pub prompt: &'a PromptSection,
    /// The reward.
    pub reward: &'a RewardConfig,
    /// A reference other than the initial policy.
    pub reference: Option<&'a String>,
    /// `true` if the algorithm needs a reference; by default, that is the initial policy.
    pub needs_reference: bool,
    /// A model for the value function.
    pub value: Option<&'a String>,
    /// Checkpoints and samples.
    pub train: &'a RlTrainSection,
}

/// Settings of an algorithm's own section.
#[derive(Debug, Clone, Copy)]
pub struct RlSettings<'a> {
    /// Number of rollouts, each with its updates, in the whole run.
    pub steps: u64,
    /// Responses of a rollout.
    pub responses: usize,
    /// Prompts of a rollout, and the setting that determines the number.
    pub prompts: (usize, &'static str),
    /// The setting that names the column of the prompts' pass rates, and the column.
    pub pass_rates: Option<(&'static str, &'a str)>,
    /// Responses of one forward and backward pass.
    pub microbatch: usize,
    /// Sampling of responses.
    pub generation: &'a GenerationConfig,
    /// Activations that a forward pass stores.
    pub activations: Activations,
}

impl<F: RlFile> Recipe for F {
    const SHOWN: &'static [&'static str] = F::SHOWN;

    fn basics(&self) -> Basics<'_> {
        let RlSections { seed, placement, model, .. } = self.sections();
        Basics { seed, placement, model }
    }

    fn check(&self) -> Result<(), RunError> {
        let RlSections { model, trainable, prompt, train, .. } = self.sections();
        self.check_settings().map_err(in_section::<F>)?;
        prompt.check()?;
        model.check_trainable("trainable", trainable)?;
        if train.keep == 0 {
            return Err(BadSetting::new("train.keep", 0, "at least 1").into());
        }
        Ok(())
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let (sections, settings) = (self.sections(), self.settings());
        let trainer = self.trainer(start.options)?;
        let spec = F::policy(&trainer).spec();
        let tokenizer = tokenizer(&sections.model.files()?, spec.vocab_size)?;
        let (trainer, more) = self.complete(trainer, &tokenizer)?;
        let RlPrompts { prompts, skipped, mut notes, rendering } =
            self.prompts(&tokenizer, F::policy(&trainer))?;
        notes.extend(tokenizer.take_notices());
        let mut batches =
            ShuffledBatches::new(&prompts, settings.prompts.0, start.seed)?.whole()?;
        // Checked before anything is written.
        let (reward, grades) = start.graded_reward(sections.reward)?;
        notes.extend(grades);
        let memory = self.memory(start.options, &prompts)?;
        sections.placement.check_memory(&memory, WeightsInMemory::Loaded)?;

        let total_steps = settings.steps;
        let about = format!(
            "{} prompts ({skipped}), {} trained weights, {total_steps} steps of {} responses{more}",
            prompts.len(),
            F::policy(&trainer).parameters().count_trainable(),
            settings.responses
        );
        let fit = &sections.train.fit(total_steps);
        let mut run = start.begin(&Outline { about, fit, total_steps })?;
        run.tell(&notes)?;
        run.keep_rendering(&rendering)?;
        let task = RlTask::new(trainer, &prompts, &tokenizer, &*reward);
        let mut task = task.samples(sections.train.samples);
        run.drive(&mut task, &mut batches)?;
        let mut policy = F::finish(task.into_trainer(), &run.folder)?;
        run.write(&mut policy)
    }
}

/// Refuses prompts whose pass rate is not a number from 0 to 1; null is none.
fn check_pass_rates(prompts: &[Prompt], key: &'static str, column: &str) -> Result<(), RunError> {
    let record = |prompt: &Prompt| {
        let value = prompt.record.metadata.get(column)?;
        let valid = value.as_f64().is_some_and(|rate| (0. ..=1.).contains(&rate));
        (!valid).then(|| format!("{value} in the row of prompt `{}`", prompt.record.id))
    };
    match prompts.iter().find_map(record) {
        Some(found) => {
            let found = format!("the column `{column}`, which has {found}");
            let expected = "a column of pass rates from 0 to 1, or null: divide percentages by 100";
            Err(BadSetting::new(key, found, expected).into())
        }
        None => Ok(()),
    }
}

/// The error of a trainer, with the section of its field.
pub(crate) fn in_section<F: RlFile>(error: RlError) -> RunError {
    match error {
        // Models have sections of their own.
        RlError::Setting(BadSetting { ref field, .. })
            if matches!(&**field, "policy" | "reference" | "value") =>
        {
            error.into()
        }
        _ => RunError::from(error).within(F::Trainer::SECTION),
    }
}
