//! Policy gradients without a value function from a run file.

use rlaif_core::Seed;
use rlaif_engine::VllmConfig;
use rlaif_lm::Reference;
use rlaif_models::{GenerationTime, LanguageModel, LoadOptions};
use rlaif_reinforce::{ReinforceConfig, ReinforceTrainer, Rollouts};
use rlaif_rewards::RewardConfig;
use rlaif_rl::{EpisodeConfig, RlError};
use rlaif_text::HfTokenizer;
use rlaif_train::{RunFolder, Trainable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    error::RunError,
    file::RunFile,
    model::{ModelSection, Placement},
    prompt::PromptSection,
    rl::{
        EnvironmentConfig, PromptData, RlFile, RlSections, RlSettings, RlTrainSection, in_section,
        policy, policy_and_reference, sections_of,
    },
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
    /// The reference, if it is another model than the initial policy. Without a KL penalty, a
    /// reference is only loaded if it is set here, and only to report the distance from it.
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
        all.extend(self.reward.iter_mut().flat_map(RewardConfig::locations));
        all.extend(self.environment.iter_mut().flat_map(EnvironmentConfig::locations));
        all
    }
}

impl RlFile for ReinforceFile {
    const SHOWN: &'static [&'static str] =
        &["env/reward_mean", "groups/equal", "ppo/policy/entropy", "time/samples_per_second"];

    type Trainer = ReinforceTrainer<LanguageModel>;

    fn sections(&self) -> RlSections<'_> {
        sections_of! {
            self,
            reference: self.reference.as_ref(),
            needs_reference: self.reinforce.settings().combination.objective.needs_reference(),
            value: None,
        }
    }

    fn settings(&self) -> RlSettings<'_> {
        let because = "`reinforce.batch_size` divided by `group_size`";
        RlSettings {
            steps: self.reinforce.steps,
            responses: self.reinforce.batch_size,
            prompts: (self.reinforce.prompts_per_step(), because),
            pass_rates: (self.reinforce.curriculum.as_ref())
                .and_then(|curriculum| curriculum.column.as_deref())
                .map(|column| ("reinforce.curriculum.column", column)),
            sampled: match self.reinforce.rollouts {
                Rollouts::Synchronous => GenerationTime::Alone,
                Rollouts::Asynchronous => GenerationTime::BesideUpdates,
            },
            environment: self.environment.as_ref().map(|environment| (environment, &self.episodes)),
            vllm: self.vllm.as_ref(),
            microbatch_size: self.reinforce.microbatch(),
            generation: &self.reinforce.generation,
            activations: self.reinforce.activations,
        }
    }

    fn reward(&self) -> &RewardConfig {
        EnvironmentConfig::reward_beside(self.reward.as_ref())
    }

    fn check_settings(&self) -> Result<(), RlError> {
        self.reinforce.check()?;
        let environment = self.environment.as_ref();
        Ok(EnvironmentConfig::check_all(environment, &self.episodes, self.reward.as_ref())?)
    }

    fn fresh_trainer(&self, options: LoadOptions) -> Result<Self::Trainer, RunError> {
        let RlSections { reference, needs_reference, .. } = self.sections();
        let (policy, reference) = if needs_reference || reference.is_some() {
            policy_and_reference(&self.model, &self.trainable, reference, options)?
        } else {
            (policy(&self.model, &self.trainable, options)?, Reference::Given)
        };
        let config = ReinforceConfig { seed: Seed::new(self.seed), ..self.reinforce.clone() };
        let trainer =
            ReinforceTrainer::new(policy, reference, config).map_err(in_section::<Self>)?;
        match self.reinforce.rollouts {
            Rollouts::Synchronous => Ok(trainer),
            Rollouts::Asynchronous => {
                let copy = self.model.language_model(options)?;
                trainer.sampling_copy(copy).map_err(in_section::<Self>)
            }
        }
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
        _: &HfTokenizer,
    ) -> Result<(Self::Trainer, String), RunError> {
        Ok((trainer, format!(", {} to a prompt", self.reinforce.group())))
    }

    fn finish(trainer: Self::Trainer, _: &RunFolder) -> Result<LanguageModel, RunError> {
        Ok(trainer.into_policy())
    }
}
