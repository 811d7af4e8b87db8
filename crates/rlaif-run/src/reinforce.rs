//! Policy gradients without a value function from a run file.

use rlaif_core::{BadSetting, Seed, TextCodec};
use rlaif_lm::{Policy, Reference};
use rlaif_models::{LanguageModel, LoadOptions, MemoryPlan};
use rlaif_ppo::{PpoError, Prompt};
use rlaif_reinforce::{ReinforceConfig, ReinforceTask, ReinforceTrainer};
use rlaif_rewards::RewardConfig;
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
    rewards::rewards_from_config,
    rl::{Needed, PromptData, RlPrompts, RlTrainSection, files_of, policy_and_reference},
};

/// The run file of `rlaif reinforce`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReinforceFile {
    /// The seed of all random numbers.
    #[serde(default)]
    pub seed: u64,
    /// The policy.
    pub model: ModelSection,
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
    /// The reward that scores responses; `docs/rewards.md` has every key.
    pub reward: RewardConfig,
    /// The reference, if it is another model than the policy at its start. Without a KL penalty,
    /// none is loaded but this one, whose distance is then told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The algorithm.
    #[serde(default)]
    pub reinforce: ReinforceConfig,
    /// Checkpoints and samples.
    #[serde(default)]
    pub train: RlTrainSection,
}

impl RunFile for ReinforceFile {
    const COMMAND: &'static str = "reinforce";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = self.model.locations();
        all.push(&mut self.data.prompts);
        all.extend(self.reference.as_mut());
        all.extend(self.reward.locations());
        all
    }
}

impl Recipe for ReinforceFile {
    const SHOWN: &'static [&'static str] =
        &["env/reward_mean", "groups/equal", "ppo/policy/entropy", "time/samples_per_second"];

    fn basics(&self) -> Basics<'_> {
        Basics { seed: self.seed, placement: &self.placement, model: &self.model }
    }

    fn check(&self) -> Result<(), RunError> {
        self.reinforce.check().map_err(|error| RunError::from(error).within("reinforce"))?;
        self.prompt.check()?;
        self.model.check_trainable("trainable", &self.trainable)?;
        if self.train.keep == 0 {
            return Err(BadSetting::new("train.keep", 0, "at least 1").into());
        }
        Ok(())
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let config = &self.reinforce;
        let trainer = self.trainer(start.options)?;
        let spec = trainer.policy().spec();
        let tokenizer = tokenizer(&self.model.files()?, spec.vocab_size)?;
        let size = config.prompts_per_step();
        let needed = Needed {
            new_tokens: config.generation.max_new_tokens,
            rows: size,
            because: "`reinforce.batch_size` divided by `group_size`",
        };
        let RlPrompts { prompts, skipped, mut notes, rendering } =
            self.data.read(&self.prompt, &tokenizer, spec, needed)?;
        notes.extend(tokenizer.take_notices());
        let mut batches = ShuffledBatches::new(&prompts, size, start.seed)?.whole()?;
        // Before anything is written.
        let reward = rewards_from_config(&self.reward, start.folder(), start.options.device)?;
        let memory = self.memory(start.options, &prompts)?;
        self.placement.check_memory(&memory, WeightsInMemory::Loaded)?;

        let total_steps = config.steps;
        let about = format!(
            "{} prompts ({skipped}), {} trained weights, {total_steps} steps of {} responses, {} to a \
             prompt",
            prompts.len(),
            trainer.policy().parameters().count_trainable(),
            config.batch_size,
            config.group()
        );
        let fit = &self.train.fit(total_steps);
        let mut run = start.begin(&Outline { about, fit, total_steps })?;
        run.tell(&notes)?;
        run.keep_rendering(&rendering)?;
        let task = ReinforceTask::new(trainer, &prompts, &tokenizer, &*reward);
        let mut task = task.samples(self.train.samples);
        run.drive(&mut task, &mut batches)?;
        run.write(&mut task.into_trainer().into_policy())
    }
}

impl ReinforceFile {
    /// True if a reference is loaded, or the policy asked without its adapter.
    fn has_reference(&self) -> bool {
        let needed = self.reinforce.settings().combination.objective.needs_reference();
        needed || self.reference.is_some()
    }

    /// Memory for these prompts, rewards aside; without prompts, the least that the run needs.
    ///
    /// # Errors
    /// [`RunError::Fetch`].
    pub fn memory(&self, options: LoadOptions, prompts: &[Prompt]) -> Result<MemoryPlan, RunError> {
        let folder = |location: &String| files_of(location).map(|files| files.folder);
        let config = &self.reinforce;
        let mut plan = MemoryPlan {
            copy: self.has_reference() && self.reference.is_none(),
            frozen: self.reference.iter().map(folder).collect::<Result<_, _>>()?,
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

    /// Loads policy and reference, and makes the trainer of them. Fresh weights depend on the seed
    /// alone.
    ///
    /// # Errors
    /// [`RunError`] for a model that cannot be loaded, settings that do not fit it, or a run that does
    /// not fit into memory.
    pub fn trainer(
        &self,
        options: LoadOptions,
    ) -> Result<ReinforceTrainer<LanguageModel>, RunError> {
        self.placement.check_memory(&self.memory(options, &[])?, WeightsInMemory::NotLoaded)?;
        let fresh = || -> Result<_, RunError> {
            if self.has_reference() {
                let reference = self.reference.as_ref();
                return policy_and_reference(&self.model, &self.trainable, reference, options);
            }
            let policy = self.model.language_model(options)?;
            self.trainable.select(policy.parameters())?;
            Ok((policy, Reference::Given))
        };
        let (policy, reference) = seeded(Seed::new(self.seed).for_libtorch("init"), fresh)??;
        let config = ReinforceConfig { seed: Seed::new(self.seed), ..self.reinforce.clone() };
        ReinforceTrainer::new(policy, reference, config).map_err(|error| match error {
            // Models, which are in sections of their own.
            PpoError::Setting(BadSetting { ref field, .. })
                if matches!(&**field, "policy" | "reference") =>
            {
                error.into()
            }
            _ => RunError::from(error).within("reinforce"),
        })
    }
}
