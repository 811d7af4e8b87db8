//! Sections and settings that run files share whose models learn from their own responses.

use rlaif_core::{BadSetting, Seed};
use rlaif_engine::VllmConfig;
use rlaif_lm::{Activations, LmSpec, Policy, generate::GenerationConfig};
use rlaif_models::{GenerationTime, LanguageModel, LoadOptions, MemoryPlan, ReferenceCopy};
use rlaif_rewards::RewardConfig;
use rlaif_rl::{EpisodeConfig, Prompt, RlError};
use rlaif_text::HfTokenizer;
use rlaif_torch::seeded;
use rlaif_train::{FitConfig, Trainable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    error::RunError,
    memory::{WeightsInMemory, longest},
    model::{ModelSection, Placement, tokenizer},
    prompt::PromptSection,
    rl::{
        environment::EnvironmentConfig,
        models::files_of,
        prompts::{Needed, PromptData, RlPrompts},
    },
};

/// Checkpoints and samples of reinforcement learning. The length of the run is in the section of
/// the algorithm.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RlTrainSection {
    /// Steps between two checkpoints; 0 saves only at the end, and when the run is interrupted.
    pub checkpoint_every: u64,
    /// Number of checkpoints to keep: the newest.
    pub keep: usize,
    /// Number of responses of each step for samples.jsonl.
    pub samples: usize,
}

impl RlTrainSection {
    /// Converts to the settings of the shared training loop.
    #[must_use]
    pub fn fit(&self, steps: u64) -> FitConfig {
        FitConfig {
            steps,
            checkpoint_every: self.checkpoint_every,
            keep: self.keep,
            ..FitConfig::default()
        }
    }
}

impl Default for RlTrainSection {
    fn default() -> Self {
        Self { checkpoint_every: 10, keep: 2, samples: 4 }
    }
}

/// The sections that run files share whose models learn from their own responses.
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
    /// A reference other than the initial policy; for a distillation the teacher.
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
    /// The time of sampling.
    pub sampled: GenerationTime,
    /// The environment, and the limits of its episodes.
    pub environment: Option<(&'a EnvironmentConfig, &'a EpisodeConfig)>,
    /// The servers that sample, if it is not the policy itself.
    pub vllm: Option<&'a VllmConfig>,
    /// Responses of one forward and backward pass.
    pub microbatch_size: usize,
    /// Sampling of responses.
    pub generation: &'a GenerationConfig,
    /// Activations that a forward pass stores.
    pub activations: Activations,
}

impl RlSettings<'_> {
    /// Checks the settings of servers.
    pub(crate) fn check(&self) -> Result<(), BadSetting> {
        self.vllm.map_or(Ok(()), |vllm| vllm.check().map_err(|error| error.within("vllm")))
    }
}

/// The [`RlSections`] of a run file, in whose type they are fields of these names; the other fields
/// follow.
macro_rules! sections_of {
    ($file:ident, $($field:ident: $value:expr,)*) => {
        $crate::rl::RlSections {
            seed: $file.seed,
            model: &$file.model,
            trainable: &$file.trainable,
            placement: &$file.placement,
            data: &$file.data,
            prompt: &$file.prompt,
            train: &$file.train,
            $($field: $value,)*
        }
    };
}
pub(crate) use sections_of;

impl RlSections<'_> {
    /// Checks everything that needs no model and no data.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        self.prompt.check()?;
        self.model.check_trainable("trainable", self.trainable)?;
        if self.train.keep == 0 {
            return Err(BadSetting::new("train.keep", 0, "at least 1").into());
        }
        Ok(())
    }

    /// Memory that the run needs for these prompts, without rewards; without prompts, the minimum.
    pub(crate) fn memory(
        &self,
        settings: RlSettings<'_>,
        options: LoadOptions,
        prompts: &[Prompt],
    ) -> Result<MemoryPlan, RunError> {
        let folder = |location: &String| files_of(location).map(|files| files.folder);
        let mut plan = MemoryPlan {
            reference: match self.needs_reference && self.reference.is_none() {
                true => ReferenceCopy::Trained,
                false => ReferenceCopy::None,
            },
            value: self.value.map(folder).transpose()?,
            frozen: self.reference.into_iter().map(folder).collect::<Result<_, _>>()?,
            generation: settings.sampled,
            activations: settings.activations,
            ..self.model.memory(options)?
        };
        if !prompts.is_empty() {
            let generation = settings.generation;
            plan.microbatch_size = settings.microbatch_size;
            plan.batch_size = generation.batch_size.min(settings.responses);
            let new = match settings.environment {
                Some((_, episodes)) => episodes.max_tokens,
                None => generation.max_new_tokens,
            };
            plan.tokens = longest(prompts.iter().map(|prompt| prompt.ids.len())) + new;
        }
        Ok(plan)
    }

    /// Loads what fits into memory; new weights depend only on the seed.
    pub(crate) fn fresh<T>(
        &self,
        memory: &MemoryPlan,
        load: impl FnOnce() -> Result<T, RunError>,
    ) -> Result<T, RunError> {
        self.placement.check_memory(memory, WeightsInMemory::NotLoaded)?;
        seeded(Seed::new(self.seed).for_libtorch("init"), load)?
    }

    /// The tokenizer of the policy.
    pub(crate) fn tokenizer(&self, policy: &LanguageModel) -> Result<HfTokenizer, RunError> {
        tokenizer(&self.model.files()?, policy.spec().vocab_size)
    }

    /// Reads the prompts that fit, with the columns that the reward reads, and counts the others.
    pub(crate) fn prompts(
        &self,
        settings: RlSettings<'_>,
        reward: Option<&RewardConfig>,
        codec: &HfTokenizer,
        spec: &LmSpec,
    ) -> Result<RlPrompts, RunError> {
        let (rows, because) = settings.prompts;
        let new_tokens = settings.generation.max_new_tokens;
        let mut columns = reward.map(RewardConfig::columns).unwrap_or_default();
        columns.extend(settings.pass_rates.map(|(_, column)| column.to_owned()));
        let tools = settings.environment.and_then(|(environment, _)| environment.schemas());
        let needed = Needed { new_tokens, tools, columns, reward, rows, because };
        let read = self.data.read(self.prompt, codec, spec, needed)?;
        if let Some((key, column)) = settings.pass_rates {
            check_pass_rates(&read.prompts, key, column)?;
        }
        Ok(read)
    }
}

/// Refuses prompts whose pass rate is not a number from 0 to 1; null means unmeasured.
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

/// Sections of their own, whose settings a trainer or its run file checks.
const OWN: [&str; 7] =
    ["policy", "reference", "teacher", "value", "reward", "environment", "episodes"];

/// The error of a trainer, with the section of its field.
pub(crate) fn within(section: &str, error: RlError) -> RunError {
    match error {
        RlError::Setting(BadSetting { ref field, .. })
            if OWN.contains(&field.split('.').next().unwrap_or_default()) =>
        {
            error.into()
        }
        _ => RunError::from(error).within(section),
    }
}
