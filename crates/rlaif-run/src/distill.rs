//! On-policy distillation from a run file.

use rlaif_core::{BadSetting, Seed, TextCodec};
use rlaif_distill::{DistillConfig, DistillTask, DistillTrainer};
use rlaif_lm::Policy;
use rlaif_models::{LanguageModel, LoadOptions, MemoryPlan};
use rlaif_rl::{Prompt, RlError};
use rlaif_torch::seeded;
use rlaif_train::Trainable;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    data::ShuffledBatches,
    error::RunError,
    file::RunFile,
    memory::{WeightsInMemory, longest},
    model::{ModelSection, Placement, tokenizer},
    prompt::PromptSection,
    recipe::{Basics, Outline, Recipe, Start},
    rl::{Needed, PromptData, RlPrompts, RlTrainSection, check_vocabulary, files_of},
};

/// The run file of `rlaif distill`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DistillFile {
    /// The seed of all random numbers.
    #[serde(default)]
    pub seed: u64,
    /// The student.
    pub model: ModelSection,
    /// The teacher: a folder or hub id of a model with the student's tokenizer.
    pub teacher: String,
    /// The weights that are trained.
    #[serde(default)]
    pub trainable: Trainable,
    /// Device, threads and memory.
    #[serde(default)]
    pub placement: Placement,
    /// The prompts.
    pub data: PromptData,
    /// The text of a prompt.
    #[serde(default)]
    pub prompt: PromptSection,
    /// The distillation.
    #[serde(default)]
    pub distill: DistillConfig,
    /// Checkpoints and samples.
    #[serde(default)]
    pub train: RlTrainSection,
}

impl RunFile for DistillFile {
    const COMMAND: &'static str = "distill";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = self.model.locations();
        all.push(&mut self.data.prompts);
        all.push(&mut self.teacher);
        all
    }
}

impl Recipe for DistillFile {
    const SHOWN: &'static [&'static str] =
        &["distill/loss", "distill/reverse_kl", "time/samples_per_second"];

    fn basics(&self) -> Basics<'_> {
        Basics { seed: self.seed, placement: &self.placement, model: &self.model }
    }

    fn check(&self) -> Result<(), RunError> {
        self.distill.check().map_err(|error| RunError::from(error).within("distill"))?;
        self.prompt.check()?;
        self.model.check_trainable("trainable", &self.trainable)?;
        if self.train.keep == 0 {
            return Err(BadSetting::new("train.keep", 0, "at least 1").into());
        }
        Ok(())
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let config = &self.distill;
        let trainer = self.trainer(start.options)?;
        let spec = trainer.policy().spec();
        let tokenizer = tokenizer(&self.model.files()?, spec.vocab_size)?;
        let needed = Needed {
            columns: Vec::new(),
            new_tokens: config.generation.max_new_tokens,
            rows: config.batch_size,
            because: "`distill.batch_size`",
        };
        let RlPrompts { prompts, skipped, mut notes, rendering } =
            self.data.read(&self.prompt, &tokenizer, spec, needed)?;
        notes.extend(tokenizer.take_notices());
        let mut batches = ShuffledBatches::new(&prompts, config.batch_size, start.seed)?.whole()?;
        let memory = self.memory(start.options, &prompts)?;
        self.placement.check_memory(&memory, WeightsInMemory::Loaded)?;

        let total_steps = config.steps;
        let about = format!(
            "{} prompts ({skipped}), {} trained weights, {total_steps} steps of {} responses",
            prompts.len(),
            trainer.policy().parameters().count_trainable(),
            config.batch_size,
        );
        let fit = &self.train.fit(total_steps);
        let mut run = start.begin(&Outline { about, fit, total_steps })?;
        run.tell(&notes)?;
        run.keep_rendering(&rendering)?;
        let task = DistillTask::new(trainer, &prompts, &tokenizer);
        let mut task = task.samples(self.train.samples);
        run.drive(&mut task, &mut batches)?;
        run.write(&mut task.into_trainer().into_policy())
    }
}

impl DistillFile {
    /// Memory for these prompts; without prompts, the least that the run needs.
    ///
    /// # Errors
    /// [`RunError::Fetch`].
    pub fn memory(&self, options: LoadOptions, prompts: &[Prompt]) -> Result<MemoryPlan, RunError> {
        let config = &self.distill;
        let mut plan = MemoryPlan {
            frozen: vec![files_of(&self.teacher)?.folder],
            activations: config.activations,
            ..self.model.memory(options)?
        };
        if !prompts.is_empty() {
            plan.microbatch = config.microbatch();
            plan.batch = config.generation.batch_size.min(config.batch_size);
            plan.tokens = longest(prompts.iter().map(|prompt| prompt.ids.len()))
                + config.generation.max_new_tokens;
        }
        Ok(plan)
    }

    /// Loads student and teacher, and makes the trainer of them. Fresh weights depend on the seed
    /// alone.
    ///
    /// # Errors
    /// [`RunError`] for a model that cannot be loaded, a teacher of another vocabulary, or a run that does
    /// not fit into memory.
    pub fn trainer(&self, options: LoadOptions) -> Result<DistillTrainer<LanguageModel>, RunError> {
        self.placement.check_memory(&self.memory(options, &[])?, WeightsInMemory::NotLoaded)?;
        let use_ = (
            "the teacher reads the ids of the student",
            "name one of the student's vocabulary, or train on its responses by `rlaif sft`",
        );
        check_vocabulary(&self.model, Some(&self.teacher), use_)?;
        let policy = seeded(Seed::new(self.seed).for_libtorch("init"), || {
            let policy = self.model.language_model(options)?;
            self.trainable.select(policy.parameters())?;
            Ok::<_, RunError>(policy)
        })??;
        let teacher = files_of(&self.teacher)?.language_model(options)?;
        let config = DistillConfig { seed: Seed::new(self.seed), ..self.distill.clone() };
        DistillTrainer::new(policy, Box::new(teacher), config).map_err(|error| match error {
            // Models, which are in sections of their own.
            RlError::Setting(BadSetting { ref field, .. })
                if matches!(&**field, "policy" | "teacher") =>
            {
                error.into()
            }
            _ => RunError::from(error).within("distill"),
        })
    }
}
