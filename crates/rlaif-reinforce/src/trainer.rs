//! The algorithm's stages: 1 rollout, 2 weights of tokens, 3 update.

use rlaif_core::{BadSetting, RewardModel};
use rlaif_lm::{Adapters, Dropout, Forward, Policy, Reference, Sampled, Sampler};
use rlaif_rl::{
    Asking, Groups, Mismatch, Plan, Prompt, RlError, Rollout, RunningMoments, Stats, check_prompts,
};
use rlaif_train::{KlEstimator, Optimizer};

use crate::{
    algorithm::{Algorithm, TokenWeights},
    collect::{Collected, Source},
    config::ReinforceConfig,
    experience::Experience,
    schedule::{Sizes, schedule},
};

/// Policy gradients without a value function, in a loop of your own:
///
/// ```text
/// for batch in prompts {
///     let experience = trainer.rollout(&batch, &mut spare, &mut sampler, &reward)?;
///     let weights = trainer.weigh(&experience)?;
///     let stats = trainer.update(&experience, &weights)?;
/// }
/// ```
///
/// [`ReinforceTrainer::step`] is the three in one. Between them, everything can be looked at, and
/// replaced: fields of [`Experience`] and [`TokenWeights`] are public.
pub struct ReinforceTrainer<P> {
    pub(crate) policy: P,
    pub(crate) reference: Reference,
    pub(crate) algorithm: Box<dyn Algorithm>,
    pub(crate) config: ReinforceConfig,
    pub(crate) optimizer: Optimizer,
    pub(crate) moments: RunningMoments,
    warnings: Vec<String>,
    pub(crate) step: u64,
}

impl<P: Policy> std::fmt::Debug for ReinforceTrainer<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReinforceTrainer")
            .field("policy", &self.policy.spec().model_type)
            .field("reference", &self.reference)
            .field("config", &self.config)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

impl<P: Policy> ReinforceTrainer<P> {
    /// A trainer at its first step, with the algorithm that the settings name. What is trained of
    /// `policy` is what requires a gradient: freeze the rest before, or add an adapter.
    ///
    /// # Errors
    /// [`RlError::Setting`] names the first field that is out of range or does not fit the policy,
    /// `reference` among them if there is a KL penalty and no model for it; [`RlError::Combination`]
    /// what is known to be wrong; [`RlError::Rollout`] a setting of generation that breaks training;
    /// [`RlError::Train`] for the optimizer's. [`ReinforceTrainer::warnings`] has what may do harm.
    pub fn new(policy: P, reference: Reference, config: ReinforceConfig) -> Result<Self, RlError> {
        let algorithm = config.settings().combination;
        Self::with_algorithm(policy, reference, config, algorithm)
    }

    /// As [`Self::new`], with a custom algorithm in place of the one that the settings name.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_algorithm(
        policy: P,
        reference: Reference,
        config: ReinforceConfig,
        algorithm: impl Algorithm + 'static,
    ) -> Result<Self, RlError> {
        config.check()?;
        let warnings = config.check_policy(policy.spec())?;
        if let Reference::Given = reference
            && algorithm.objective().needs_reference()
        {
            let expected =
                "a frozen copy of the policy, or its adapters turned off; or `kl = \"none\"`";
            return Err(BadSetting::new("reference", "none", expected).into());
        }
        reference.freeze(&policy)?;
        let trained = policy.parameters().trainable();
        if trained.is_empty() {
            let expected = "parameters that are trained: set `requires_grad`, or add an adapter";
            return Err(BadSetting::new("policy", "frozen as a whole", expected).into());
        }
        let updates = config.steps * config.updates_per_step();
        let optimizer = Optimizer::new(trained, &config.optimizer, updates)?;
        Ok(Self {
            policy,
            reference,
            algorithm: Box::new(algorithm),
            config,
            optimizer,
            moments: RunningMoments::default(),
            warnings,
            step: 0,
        })
    }

    /// The settings.
    pub fn config(&self) -> &ReinforceConfig {
        &self.config
    }

    /// Messages about settings, or about the policy's special ids, that may do harm.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The policy.
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// The policy, for adapters to be saved or merged. Parameters stay the trainer's.
    pub fn policy_mut(&mut self) -> &mut P {
        &mut self.policy
    }

    /// Number of updates so far.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// The policy, trained.
    pub fn into_policy(self) -> P {
        self.policy
    }

    /// One step: rollout, weights of tokens, update. Without any group that teaches something
    /// ([`crate::DynamicSampling`]), the policy stays, and there is no experience.
    ///
    /// # Errors
    /// Those of the three.
    pub fn step(
        &mut self,
        prompts: &[Prompt],
        spare: &mut dyn Iterator<Item = Prompt>,
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<(Option<Experience>, Stats), RlError> {
        let Some(experience) = self.rollout(prompts, spare, sampler, reward)? else {
            self.step += 1;
            let mut stats = Stats { step: self.step, ..Stats::default() };
            stats.push("groups/left_out", self.config.prompts_per_step() as f64);
            return Ok((None, stats));
        };
        let weights = self.weigh(&experience)?;
        let stats = self.update(&experience, &weights)?;
        Ok((Some(experience), stats))
    }

    /// Samples `group_size` responses to each prompt, has them scored, and asks policy and reference
    /// about their tokens. `spare` has prompts for dynamic sampling. `None` if no group teaches
    /// anything.
    ///
    /// The tokens that a row samples depend on the seed, the step and the record's id, not on its
    /// batch.
    ///
    /// # Errors
    /// [`RlError::Rows`] unless there are [`ReinforceConfig::prompts_per_step`] prompts;
    /// [`RlError::Lm`] for a prompt that does not fit the context with `max_new_tokens`, before
    /// anything is sampled; what the sampler refuses; [`RlError::Reward`]; [`RlError::NoScore`].
    pub fn rollout(
        &mut self,
        prompts: &[Prompt],
        spare: &mut dyn Iterator<Item = Prompt>,
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<Option<Experience>, RlError> {
        let (config, spec) = (&self.config, self.policy.spec());
        check_prompts(prompts, config.prompts_per_step(), &config.generation, spec)?;
        let mut source =
            Source { sampler, reward, policy: &self.policy, config: &self.config, step: self.step };
        let collected = source.collect(prompts, spare)?;
        if collected.prompts.is_empty() {
            return Ok(None);
        }
        let greedy = match self.algorithm.needs_greedy() {
            true => Some(source.greedy(&collected.prompts, self.config.group())?),
            false => None,
        };
        Ok(Some(self.experience(collected, greedy, reward.name())?))
    }

    /// Asks the models about the tokens of responses.
    fn experience(
        &mut self,
        collected: Collected,
        greedy: Option<Vec<Option<f64>>>,
        reward: &str,
    ) -> Result<Experience, RlError> {
        let Collected { prompts, sampled, scores, left_out, seconds } = collected;
        let groups = Groups::of_size(prompts.len(), self.config.group());
        let schedule = self.schedule(&groups, &sampled);
        let mut moments = self.moments;
        let plan = Plan {
            step: self.step,
            scores: &self.config.scores,
            moments: &mut moments,
            orders: schedule.iter().map(|epoch| epoch.concat().concat()).collect(),
            chunks: schedule[0].concat(),
            skipped: 0,
            seconds,
        };
        let objective = self.algorithm.objective();
        let asking = Asking {
            policy: &self.policy,
            forward: Forward { dropout: Dropout::Off, ..self.training_forward() },
            critic: None,
            reference: &self.reference,
            estimator: objective.kl.estimator().unwrap_or(KlEstimator::K1),
            temperature: self.config.generation.sampling.temperature(),
        };
        let rollout = Rollout::ask(&asking, &prompts, sampled, (reward, &scores), plan)?;
        self.moments = moments;
        let mismatch = match &rollout.sampler_log_probs {
            Some(sampler) => Mismatch::of(&rollout.log_probs, sampler, &rollout.mask),
            None => Mismatch::default(),
        };
        Ok(Experience { rollout, groups, greedy, mismatch, left_out, schedule })
    }

    fn schedule(&self, groups: &Groups, sampled: &[Sampled]) -> Vec<Vec<Vec<Vec<usize>>>> {
        let sizes = Sizes {
            epochs: self.config.epochs,
            groups: self.config.minibatch() / self.config.group(),
            microbatch: self.config.microbatch(),
        };
        let seed = self.config.seed.derive("minibatches", self.step);
        schedule(groups, |row| sampled[row].ids.len(), sizes, seed)
    }

    /// The weights of tokens that the algorithm gives.
    ///
    /// # Errors
    /// [`RlError::StaleRollout`] for a rollout of another step, and what the algorithm refuses.
    pub fn weigh(&self, experience: &Experience) -> Result<TokenWeights, RlError> {
        experience.rollout.check(self.step, experience.rollout.len())?;
        self.algorithm.weigh(experience)
    }

    /// The mode of a training pass.
    pub(crate) fn training_forward(&self) -> Forward<'static> {
        let ReinforceConfig { dropout, activations, .. } = self.config;
        Forward { dropout, adapters: Adapters::Active, activations, ..Forward::default() }
    }
}
