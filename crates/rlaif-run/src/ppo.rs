//! PPO from a run file.

use rlaif_core::{BadSetting, PromptRecord, PromptRow, Rendering, Seed, TextCodec, TextKind};
use rlaif_data::{ImportColumns, ImportOptions, RowForm};
use rlaif_lm::{Joiner, Policy, ValueFunction, ValueHead, ValueInit};
use rlaif_models::{
    LanguageModel, LoadOptions, MemoryPlan, ModelFiles, ModelNames, PolicySetup, value_function,
};
use rlaif_ppo::{PpoConfig, PpoError, PpoTask, PpoTrainer, Prompt, Reference, ValueModel};
use rlaif_rewards::RewardConfig;
use rlaif_text::HfTokenizer;
use rlaif_torch::{TorchError, seeded};
use rlaif_train::{FitConfig, SftRow, Trainable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{
    columns::{ColumnSection, dropped},
    data::ShuffledBatches,
    encode::Encoder,
    error::RunError,
    fetch::{FetchError, model_files},
    file::RunFile,
    memory::{WeightsInMemory, longest},
    model::{ModelSection, Placement, converted, tokenizer},
    prompt::{PromptSection, of_rows, rendered},
    recipe::{Basics, Outline, Recipe, Start},
    rewards::rewards_from_config,
    rows::{RowReader, read_as},
    skipped::SkippedRows,
    vocabulary::{same_vocabulary, tokenizer_if_present},
};

/// The run file of `rlaif ppo`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PpoFile {
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
    /// The reference, if it is another model than the policy at its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The value function.
    #[serde(default)]
    pub value: ValueSection,
    /// The texts that `ppo.pretraining` mixes in (PPO-ptx).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretraining: Option<PretrainingSection>,
    /// The algorithm.
    #[serde(default)]
    pub ppo: PpoConfig,
    /// Checkpoints and samples.
    #[serde(default)]
    pub train: PpoTrainSection,
}

/// Prompts: files of JSON Lines, CSV or Parquet, in any form of docs/data.md that has prompts.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptData {
    /// A file, or a pattern such as `shards/*.jsonl`.
    pub prompts: String,
    /// The column of prompts.
    #[serde(default = "PromptData::column")]
    pub column: String,
    /// The column of reference responses, for rewards that compare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Prompts of more tokens are left out; 0 for those that do not fit the context alone.
    #[serde(default)]
    pub max_tokens: usize,
    /// Choices that data sets leave open.
    #[serde(default)]
    pub import: ImportOptions,
}

impl PromptData {
    fn column() -> String {
        "prompt".to_owned()
    }

    /// The way to read the rows.
    fn reader(&self) -> RowReader {
        let named = ImportColumns {
            reference: self.reference.clone(),
            ..ImportColumns::default().rename(&self.column, "prompt")
        };
        // A column that is named holds the prompts, of whichever form the rows are.
        let form = (self.column != Self::column()).then_some(RowForm::Prompt);
        RowReader {
            form,
            usual: RowForm::Prompt,
            preferred: &[],
            columns: named,
            options: self.import,
        }
    }
}

/// The prompts of a run.
#[derive(Debug)]
pub struct PpoPrompts {
    /// Those that fit.
    pub prompts: Vec<Prompt>,
    /// Counts of the others.
    pub skipped: SkippedRows,
    /// Sentences on the form of the rows, for the log.
    pub notes: Vec<String>,
    /// The rendering of the prompts.
    pub rendering: Rendering,
}

/// Texts that the policy goes on learning while it is trained on scores: files of JSON Lines, CSV or
/// Parquet.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PretrainingSection {
    /// A file, or a pattern such as `shards/*.jsonl`.
    pub path: String,
    /// Contents of its rows.
    #[serde(default)]
    pub columns: ColumnSection,
    /// Rows are cut to this many tokens.
    #[serde(default = "PretrainingSection::max_tokens")]
    pub max_tokens: usize,
}

impl PretrainingSection {
    fn max_tokens() -> usize {
        512
    }
}

/// The value function.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ValueSection {
    /// A model whose trunk the value head is on: a language model, or with `init = "reward_model"` a
    /// reward model. Without it, the trunk is that of the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Initialisation of the head.
    pub init: ValueStart,
}

/// Initialisation of a value head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueStart {
    /// Every value is 0.
    #[default]
    Zero,
    /// Uniform in ±1/√H, as TRL 0.11's.
    Pytorch,
    /// As the score layer of `value.model`, which is a reward model with the policy's vocabulary.
    RewardModel,
}

/// Checkpoints and samples of PPO; `ppo.steps` is its length.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PpoTrainSection {
    /// Steps between two checkpoints; 0 saves at the end alone, and when the run is interrupted.
    pub checkpoint_every: u64,
    /// Checkpoints that are kept, the newest.
    pub keep: usize,
    /// Responses of each step that go into samples.jsonl.
    pub samples: usize,
}

impl PpoTrainSection {
    /// The same for the loop that trainings share.
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

impl Default for PpoTrainSection {
    fn default() -> Self {
        Self { checkpoint_every: 10, keep: 2, samples: 4 }
    }
}

impl RunFile for PpoFile {
    const COMMAND: &'static str = "ppo";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = self.model.locations();
        all.push(&mut self.data.prompts);
        all.extend(self.reference.as_mut());
        all.extend(self.value.model.as_mut());
        all.extend(self.pretraining.as_mut().map(|section| &mut section.path));
        all.extend(self.reward.locations());
        all
    }
}

impl Recipe for PpoFile {
    const SHOWN: &'static [&'static str] =
        &["env/reward_mean", "objective/kl", "ppo/policy/entropy", "time/samples_per_second"];

    fn basics(&self) -> Basics<'_> {
        Basics { seed: self.seed, placement: &self.placement, model: &self.model }
    }

    fn check(&self) -> Result<(), RunError> {
        Self::check(self)
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let mut trainer = self.trainer(start.options)?;
        let tokenizer = tokenizer(&self.model.files()?, trainer.policy().spec().vocab_size)?;
        let mut mixed_in = String::new();
        if let Some((rows, skipped)) = self.pretraining(&tokenizer, trainer.policy())? {
            mixed_in = format!(", {} rows of pre-training data ({skipped})", rows.len());
            trainer = trainer
                .with_pretraining(rows)
                .map_err(|error| RunError::from(error).within("ppo"))?;
        }
        let PpoPrompts { prompts, skipped, mut notes, rendering } =
            self.prompts(&tokenizer, trainer.policy())?;
        notes.extend(tokenizer.take_notices());
        let mut batches =
            ShuffledBatches::new(&prompts, self.ppo.batch_size, start.seed)?.whole()?;
        // Before anything is written.
        let reward = rewards_from_config(&self.reward, start.folder(), start.options.device)?;

        let memory = self.memory(start.options, &prompts)?;
        self.placement.check_memory(&memory, WeightsInMemory::Loaded)?;

        let total_steps = self.ppo.steps;
        let about = format!(
            "{} prompts ({skipped}), {} trained weights, {total_steps} steps of {} responses{mixed_in}",
            prompts.len(),
            trainer.policy().parameters().count_trainable(),
            self.ppo.batch_size
        );
        let fit = &self.train.fit(total_steps);
        let mut run = start.begin(&Outline { about, fit, total_steps })?;
        run.tell(&notes)?;
        run.keep_rendering(&rendering)?;
        let mut task =
            PpoTask::new(trainer, &prompts, &tokenizer, &*reward).samples(self.train.samples);
        run.drive(&mut task, &mut batches)?;
        let trainer = task.into_trainer();
        let heads: Vec<(&str, &Tensor)> = trainer.value().parameters().iter().collect();
        Tensor::write_safetensors(&heads, run.folder.path().join("value_head.safetensors"))
            .map_err(TorchError::from)?;
        run.write(&mut trainer.into_policy())
    }
}

impl PpoFile {
    /// Checks what contradicts itself, before anything is loaded.
    ///
    /// # Errors
    /// [`RunError::Field`], [`RunError::Ppo`].
    pub fn check(&self) -> Result<(), RunError> {
        self.ppo.check().map_err(|error| RunError::from(error).within("ppo"))?;
        self.prompt.check()?;
        self.model.check_trainable("trainable", &self.trainable)?;
        if self.train.keep == 0 {
            return Err(BadSetting::new("train.keep", 0, "at least 1").into());
        }
        Ok(())
    }

    /// Memory for these prompts, rewards aside; without prompts, the least that the run needs.
    ///
    /// # Errors
    /// [`RunError::Fetch`].
    pub fn memory(&self, options: LoadOptions, prompts: &[Prompt]) -> Result<MemoryPlan, RunError> {
        let folder = |location: &String| files_of(location).map(|files| files.folder);
        let mut plan = MemoryPlan {
            copy: self.reference.is_none(),
            value: self.value.model.as_ref().map(folder).transpose()?,
            frozen: self.reference.iter().map(folder).collect::<Result<_, _>>()?,
            activations: self.ppo.activations,
            ..self.model.memory(options)?
        };
        if !prompts.is_empty() {
            let generation = &self.ppo.generation;
            plan.microbatch = self.ppo.microbatch();
            plan.batch = generation.batch_size.min(self.ppo.batch_size);
            plan.tokens =
                longest(prompts.iter().map(|prompt| prompt.ids.len())) + generation.max_new_tokens;
        }
        Ok(plan)
    }

    /// Loads policy, reference and value function, and makes the trainer of them. Fresh weights depend
    /// on the seed alone.
    ///
    /// # Errors
    /// [`RunError`] for a model that cannot be loaded, settings that do not fit it, or a run that does
    /// not fit into memory.
    pub fn trainer(&self, options: LoadOptions) -> Result<PpoTrainer<LanguageModel>, RunError> {
        self.placement.check_memory(&self.memory(options, &[])?, WeightsInMemory::NotLoaded)?;
        seeded(Seed::new(self.seed).for_libtorch("init"), || self.fresh_trainer(options))?
    }

    /// Refuses a reference and a value function that read the policy's ids as other tokens.
    fn check_vocabularies(&self) -> Result<(), RunError> {
        let others = [
            (
                &self.reference,
                "the reference reads the ids of the policy",
                "name one of the policy's vocabulary",
            ),
            (
                &self.value.model,
                "the value function reads the ids of the policy",
                "name one of the policy's vocabulary, or leave `value.model` out",
            ),
        ];
        let named = others.into_iter().filter_map(|(other, use_, way_out)| {
            other.as_ref().map(|other| (other, use_, way_out))
        });
        for (other, use_, way_out) in named {
            let policy = tokenizer_if_present(&self.model.files()?)?;
            let others = tokenizer_if_present(&files_of(other)?)?;
            let (Some(policy), Some(others)) = (policy, others) else { continue };
            let policy = (self.model.path.as_str(), &policy);
            same_vocabulary(policy, (other.as_str(), &others), (use_, way_out))?;
        }
        Ok(())
    }

    /// As [`Self::trainer`], drawing from libtorch's generator.
    fn fresh_trainer(&self, options: LoadOptions) -> Result<PpoTrainer<LanguageModel>, RunError> {
        let reference = self.reference.as_ref();
        let reference = reference.map(files_of).transpose()?;
        self.check_vocabularies()?;
        let setup = PolicySetup { reference, ..self.model.setup(options)? };
        let policy = self.model.language_model(options)?;
        self.trainable.select(policy.parameters())?;
        let reference = match setup.reference_of(policy.parameters())? {
            Some(reference) => Reference::Frozen(Box::new(reference)),
            None => Reference::AdaptersOff,
        };
        let load = |location: &str| -> Result<LanguageModel, RunError> {
            Ok(files_of(location)?.merged_language_model(options)?)
        };
        let head = |size| {
            let init = match self.value.init {
                ValueStart::Pytorch => ValueInit::PyTorch,
                ValueStart::Zero | ValueStart::RewardModel => ValueInit::Zero,
            };
            ValueHead::new(size, init, options.device)
        };
        let Some(location) = &self.value.model else {
            if self.value.init == ValueStart::RewardModel {
                let problem = "is `reward_model`; name that model in `value.model`".to_owned();
                return Err(RunError::Setting { key: "value.init", problem });
            }
            let head = head(policy.spec().hidden_size);
            return self.trainer_of(policy, head, reference);
        };
        let (trunk, head) = match self.value.init {
            ValueStart::RewardModel => value_function(&files_of(location)?, options)
                .map_err(|error| converted("value.model", error))?,
            ValueStart::Zero | ValueStart::Pytorch => {
                let trunk = load(location)?;
                let head = head(trunk.spec().hidden_size);
                (trunk, head)
            }
        };
        let (own, other) = (policy.spec().vocab_size, trunk.spec().vocab_size);
        if own != other {
            let problem = format!(
                "{location} has a vocabulary of {other}; expected that of the policy, {own}, whose \
                 tokens it reads"
            );
            return Err(RunError::Setting { key: "value.model", problem });
        }
        trunk.parameters().train_where(|_| true);
        let value = ValueModel::new(trunk, head);
        self.trainer_of(policy, value, reference)
    }

    fn trainer_of(
        &self,
        policy: LanguageModel,
        value: impl ValueFunction + 'static,
        reference: Reference,
    ) -> Result<PpoTrainer<LanguageModel>, RunError> {
        let config = PpoConfig { seed: Seed::new(self.seed), ..self.ppo.clone() };
        PpoTrainer::new(policy, value, reference, config).map_err(|error| match error {
            // Models, which are in sections of their own.
            PpoError::Setting(BadSetting { ref field, .. })
                if matches!(&**field, "policy" | "reference" | "value") =>
            {
                error.into()
            }
            _ => RunError::from(error).within("ppo"),
        })
    }

    /// Reads the texts of the pre-training mix, if there is one, and counts the rows that were left
    /// out or cut.
    ///
    /// # Errors
    /// [`RunError::Setting`] if only one of `[pretraining]` and `ppo.pretraining` is there, or no row
    /// has anything to learn; [`RunError::Data`], [`RunError::Codec`].
    pub fn pretraining(
        &self,
        codec: &HfTokenizer,
        policy: &dyn Policy,
    ) -> Result<Option<(Vec<SftRow>, SkippedRows)>, RunError> {
        let section = match (&self.pretraining, &self.ppo.pretraining) {
            (None, None) => return Ok(None),
            (Some(section), Some(_)) => section,
            (None, Some(_)) => {
                let problem = "gives weights, and there is nothing to weigh; name the texts in \
                               `[pretraining]`, `path`"
                    .to_owned();
                return Err(RunError::Setting { key: "ppo.pretraining", problem });
            }
            (Some(_), None) => {
                let problem = "names texts, and nothing says how much they count; set \
                               `ppo.pretraining = { coef = .., rows = .. }`"
                    .to_owned();
                return Err(RunError::Setting { key: "pretraining", problem });
            }
        };
        let encoder = Encoder::new(codec, policy.spec(), section.max_tokens);
        let (rows, left) = section.columns.read(&section.path, &self.prompt, &encoder)?;
        if rows.is_empty() {
            let problem = format!(
                "no row of {} has anything to learn within `pretraining.max_tokens`",
                section.path
            );
            return Err(RunError::Setting { key: "pretraining.path", problem });
        }
        Ok(Some((rows, left)))
    }

    /// Reads the prompts that fit, and counts those that do not.
    ///
    /// # Errors
    /// [`RunError::Data`], [`RunError::Codec`]; [`RunError::Setting`] if fewer than a batch fit.
    pub fn prompts(
        &self,
        codec: &HfTokenizer,
        policy: &dyn Policy,
    ) -> Result<PpoPrompts, RunError> {
        let (rows, form) = self.data.reader().read::<PromptRow>(&self.data.prompts)?;
        let mut skipped = dropped(&rows);
        let how = self.prompt.rendering();
        let mut rows = rows.into_records();
        if self.data.reference.is_none() {
            // Responses of the rows are references only if the run file says so.
            rows.iter_mut().for_each(|row| row.reference = None);
        }
        let records = rendered(&rows, &mut skipped, |row| row.render(codec, &how))?;
        let records: Vec<PromptRecord> = records.into_iter().flatten().collect();
        let texts: Vec<_> =
            records.iter().map(|record| (record.prompt.as_str(), record.kind)).collect();
        let spec = policy.spec();
        let ids = Joiner::new(codec, spec).open(&texts)?;
        let conversations = records.iter().any(|record| record.kind == TextKind::Rendered);
        let rendering = of_rows(&self.prompt, conversations);
        let new =
            if spec.decoder_start_id.is_some() { 0 } else { self.ppo.generation.max_new_tokens };
        let context = spec.context.map_or(usize::MAX, |context| context.saturating_sub(new));
        let limit = match self.data.max_tokens {
            0 => context,
            limit => limit.min(context),
        };
        let all = records.len();
        let mut prompts = Vec::with_capacity(all);
        for (record, ids) in records.into_iter().zip(ids) {
            if ids.is_empty() {
                skipped.leave_out("no prompt");
            } else if ids.len() > limit {
                skipped.leave_out("too long");
            } else {
                prompts.push(Prompt::new(record, ids));
            }
        }
        let size = self.ppo.batch_size;
        if prompts.len() < size {
            let fit = match limit {
                usize::MAX => format!("there are {all} prompts"),
                limit => {
                    format!("{} of {all} prompts have at most {limit} tokens", prompts.len())
                }
            };
            let problem = format!("{fit}, fewer than `ppo.batch_size`, which is {size}");
            return Err(RunError::Setting { key: "data.prompts", problem });
        }
        let notes = vec![read_as(&self.data.prompts, form)];
        Ok(PpoPrompts { prompts, skipped, notes, rendering })
    }
}

/// The files of a reference or of a value function: a model's, or an adapter's and its base's.
fn files_of(location: impl AsRef<str>) -> Result<ModelFiles, FetchError> {
    model_files(&ModelNames { model: location.as_ref(), ..ModelNames::default() })
}
