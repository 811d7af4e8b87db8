//! PPO from a run file.

use std::path::Path;

use rlaif_core::{BadSetting, Seed};
use rlaif_engine::VllmConfig;
use rlaif_lm::{Policy, Reference, ValueFunction, ValueHead, ValueInit};
use rlaif_models::{GenerationTime, LanguageModel, LoadOptions, saved_value_head, value_function};
use rlaif_ppo::{PpoConfig, PpoTrainer, ValueModel};
use rlaif_rewards::RewardConfig;
use rlaif_rl::{EpisodeConfig, RlError};
use rlaif_text::HfTokenizer;
use rlaif_torch::TorchError;
use rlaif_train::{RunFolder, SftRow, Trainable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{
    columns::ColumnSection,
    encode::Encoder,
    error::RunError,
    file::RunFile,
    model::{ModelSection, Placement, converted},
    prompt::PromptSection,
    rl::{
        EnvironmentConfig, PromptData, RlFile, RlSections, RlSettings, RlTrainSection,
        check_vocabulary, files_of, in_section, policy_and_reference, sections_of,
    },
    skipped::SkippedRows,
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
    /// The trained weights.
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
    /// The reward that scores responses; `docs/rewards.md` has every key. It may be absent if there is an
    /// environment that rewards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<RewardConfig>,
    /// The environment, for responses of several turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentConfig>,
    /// Limits of episodes with the environment.
    #[serde(default)]
    pub episodes: EpisodeConfig,
    /// Sampling on vLLM servers; by default, the policy samples in this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vllm: Option<VllmConfig>,
    /// The reference, if it is not the initial policy.
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
    pub train: RlTrainSection,
}

/// Texts that the policy continues to learn during PPO: files of JSON Lines, CSV or Parquet.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PretrainingSection {
    /// A file, or a pattern such as `shards/*.jsonl`.
    pub file: String,
    /// Format of its rows.
    #[serde(default)]
    pub columns: ColumnSection,
    /// Rows are truncated to this many tokens.
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
    /// The model whose trunk carries the value head: a language model, or with `init =
    /// "reward_model"` a reward model. By default, the policy's trunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Initialisation of the head.
    pub init: ValueStart,
    /// A saved head to start from, instead of `init`: the `value_head.safetensors` of a run, or the folder of a model
    /// that TRL saved with its value head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
}

/// Initialisation of a value head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueStart {
    /// Every value is 0.
    #[default]
    Zero,
    /// Uniform in ±1/√H, as in TRL 0.11.
    Pytorch,
    /// The score layer of `value.model`, which is a reward model with the policy's vocabulary.
    RewardModel,
}

impl RunFile for PpoFile {
    const COMMAND: &'static str = "ppo";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = self.model.locations();
        all.push(&mut self.data.prompts);
        all.extend(self.reference.as_mut());
        all.extend(self.value.model.as_mut());
        all.extend(self.value.head.as_mut());
        all.extend(self.pretraining.as_mut().map(|section| &mut section.file));
        all.extend(self.reward.iter_mut().flat_map(RewardConfig::locations));
        all.extend(self.environment.iter_mut().flat_map(EnvironmentConfig::locations));
        all
    }
}

impl RlFile for PpoFile {
    const SHOWN: &'static [&'static str] =
        &["env/reward_mean", "objective/kl", "ppo/policy/entropy", "time/samples_per_second"];

    type Trainer = PpoTrainer<LanguageModel>;

    fn sections(&self) -> RlSections<'_> {
        sections_of! {
            self,
            reference: self.reference.as_ref(),
            needs_reference: true,
            value: self.value.model.as_ref(),
        }
    }

    fn settings(&self) -> RlSettings<'_> {
        RlSettings {
            steps: self.ppo.steps,
            responses: self.ppo.batch_size,
            pass_rates: None,
            prompts: (self.ppo.batch_size, "`ppo.batch_size`"),
            sampled: GenerationTime::Alone,
            environment: self.environment.as_ref().map(|environment| (environment, &self.episodes)),
            vllm: self.vllm.as_ref(),
            microbatch_size: self.ppo.microbatch(),
            generation: &self.ppo.generation,
            activations: self.ppo.activations,
        }
    }

    fn reward(&self) -> &RewardConfig {
        EnvironmentConfig::reward_beside(self.reward.as_ref())
    }

    fn check_settings(&self) -> Result<(), RlError> {
        self.ppo.check()?;
        let environment = self.environment.as_ref();
        Ok(EnvironmentConfig::check_all(environment, &self.episodes, self.reward.as_ref())?)
    }

    fn fresh_trainer(&self, options: LoadOptions) -> Result<PpoTrainer<LanguageModel>, RunError> {
        let value = (
            "the value function reads the ids of the policy",
            "name one of the policy's vocabulary, or leave `value.model` out",
        );
        check_vocabulary(&self.model, self.value.model.as_ref(), value)?;
        let (policy, reference) =
            policy_and_reference(&self.model, &self.trainable, self.reference.as_ref(), options)?;
        let head = |size| -> Result<ValueHead, RunError> {
            let init = match self.value.init {
                ValueStart::Pytorch => ValueInit::PyTorch,
                ValueStart::Zero | ValueStart::RewardModel => ValueInit::Zero,
            };
            match &self.value.head {
                Some(place) => saved_value_head(Path::new(place), size, options.device)
                    .map_err(|error| converted("value.head", error)),
                None => Ok(ValueHead::new(size, init, options.device)),
            }
        };
        if self.value.head.is_some() && self.value.init != ValueStart::Zero {
            let expected =
                "one of the two: `value.init` draws a new head, or takes that of a reward model";
            return Err(BadSetting::new("value.head", "given with `value.init`", expected).into());
        }
        let Some(location) = &self.value.model else {
            if self.value.init == ValueStart::RewardModel {
                let found = "`reward_model` without `value.model`";
                let expected = "another start, or the name of that model in `value.model`";
                return Err(BadSetting::new("value.init", found, expected).into());
            }
            let head = head(policy.spec().hidden_size)?;
            return self.trainer_of(policy, head, reference);
        };
        let options = self.model.with_vocabulary(options)?;
        let load = |location: &str| -> Result<LanguageModel, RunError> {
            Ok(files_of(location)?.merged_language_model(options)?)
        };
        let (trunk, head) = match self.value.init {
            ValueStart::RewardModel => value_function(&files_of(location)?, options)
                .map_err(|error| converted("value.model", error))?,
            ValueStart::Zero | ValueStart::Pytorch => {
                let trunk = load(location)?;
                let head = head(trunk.spec().hidden_size)?;
                (trunk, head)
            }
        };
        let (own, other) = (policy.spec().vocab_size, trunk.spec().vocab_size);
        if own != other {
            let found = format!("{location}, with a vocabulary of {other}");
            let expected =
                format!("a model with the policy's vocabulary, {own}, whose tokens it reads");
            return Err(BadSetting::new("value.model", found, expected).into());
        }
        trunk.parameters().train_where(|_| true);
        let value = ValueModel::new(trunk, head);
        self.trainer_of(policy, value, reference)
    }

    fn policy(trainer: &Self::Trainer) -> &LanguageModel {
        trainer.policy()
    }

    fn policy_mut(trainer: &mut Self::Trainer) -> &mut LanguageModel {
        trainer.policy_mut()
    }

    fn complete(
        &self,
        trainer: Self::Trainer,
        codec: &HfTokenizer,
    ) -> Result<(Self::Trainer, String), RunError> {
        let Some((rows, skipped)) = self.pretraining(codec, trainer.policy())? else {
            return Ok((trainer, String::new()));
        };
        let more = format!(", {} rows of pre-training data ({skipped})", rows.len());
        Ok((trainer.with_pretraining(rows).map_err(in_section::<Self>)?, more))
    }

    fn finish(trainer: Self::Trainer, folder: &RunFolder) -> Result<LanguageModel, RunError> {
        let heads: Vec<(&str, &Tensor)> = trainer.value().parameters().iter().collect();
        if folder.world().is_first() {
            Tensor::write_safetensors(&heads, folder.path().join("value_head.safetensors"))
                .map_err(TorchError::from)?;
        }
        Ok(trainer.into_policy())
    }
}

impl PpoFile {
    fn trainer_of(
        &self,
        policy: LanguageModel,
        value: impl ValueFunction + 'static,
        reference: Reference,
    ) -> Result<PpoTrainer<LanguageModel>, RunError> {
        let config = PpoConfig { seed: Seed::new(self.seed), ..self.ppo.clone() };
        PpoTrainer::new(policy, value, reference, config).map_err(in_section::<Self>)
    }

    /// Reads the texts of the pre-training mix, if there is one, and counts the rows that were left
    /// out or truncated.
    ///
    /// # Errors
    /// [`RunError::Setting`] if only one of `[pretraining]` and `ppo.pretraining` is present, or no
    /// row has anything to learn; [`RunError::Data`], [`RunError::Codec`].
    pub fn pretraining(
        &self,
        codec: &HfTokenizer,
        policy: &dyn Policy,
    ) -> Result<Option<(Vec<SftRow>, SkippedRows)>, RunError> {
        let section = match (&self.pretraining, &self.ppo.pretraining) {
            (None, None) => return Ok(None),
            (Some(section), Some(_)) => section,
            (None, Some(_)) => {
                let found = "given without `[pretraining]`";
                let expected = "used with `pretraining.file`, the texts that it weighs";
                return Err(BadSetting::new("ppo.pretraining", found, expected).into());
            }
            (Some(_), None) => {
                let found = "given without `ppo.pretraining`";
                let expected = "used with `ppo.pretraining = { coef = .., batch_size = .. }`, the \
                                weight of the texts";
                return Err(BadSetting::new("pretraining", found, expected).into());
            }
        };
        let encoder = Encoder::new(codec, policy.spec(), section.max_tokens);
        let (rows, left) = section.columns.read(&section.file, &self.prompt, &encoder)?;
        if rows.is_empty() {
            let found = format!(
                "`{}`, in which no row has anything to learn within `pretraining.max_tokens`",
                section.file
            );
            return Err(BadSetting::new("pretraining.file", found, "rows to learn from").into());
        }
        Ok(Some((rows, left)))
    }
}
