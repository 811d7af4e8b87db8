//! The algorithm: 1 rollout, 2 advantages, 3 update.

use std::time::Instant;

use rlaif_core::{PromptRecord, RewardModel, Scores, TextCodec};
use rlaif_lm::{
    Adapters, Draw, Dropout, Forward, LocalSampler, Policy, Reference, Sampled, Sampler,
    SamplerCall, ValueFunction, Weights, Whiten,
    generate::{FinishReason, RolloutConcern},
};
use rlaif_rl::{
    Advantage, Asking, Gae, Plan, Prompt, Rollout, RunningMoments, Whitening, check_prompts,
    permutation, play, score, score_tensor, token_rewards, trained_parameters,
};
use rlaif_train::{Advantages, KlController, Optimizer, SftRow};

use crate::{
    PpoStats,
    config::{PpoConfig, setting},
    error::PpoError,
    trl::Accounting,
};

/// Proximal policy optimization of a language model. The caller writes the loop:
///
/// ```text
/// for batch in prompts {
///     let rollout = trainer.rollout(&batch, &codec, &reward)?;   // responses, scores, log-probs, values
///     let advantages = trainer.advantages(&rollout)?;            // KL penalty, score, GAE
///     let stats = trainer.update(&rollout, &advantages)?;        // epochs of minibatches
/// }
/// ```
///
/// [`PpoTrainer::step`] combines the three. Between them, everything can be inspected and replaced:
/// the fields of [`Rollout`] and [`Advantages`] are public.
#[derive(Debug)]
pub struct PpoTrainer<P> {
    pub(crate) policy: P,
    pub(crate) critic: Critic,
    pub(crate) reference: Reference,
    pub(crate) config: PpoConfig,
    pub(crate) optimizer: Optimizer,
    pub(crate) controller: KlController,
    pub(crate) moments: RunningMoments,
    pub(crate) pretraining: Vec<SftRow>,
    warnings: Vec<RolloutConcern>,
    pub(crate) step: u64,
}

/// The value function, boxed.
pub(crate) struct Critic(pub(crate) Box<dyn ValueFunction>);

impl std::fmt::Debug for Critic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.parameters().iter().map(|(name, _)| name)).finish()
    }
}

impl<P: Policy> PpoTrainer<P> {
    /// A trainer before its first step. The parameters of `policy` that require a gradient are
    /// trained: freeze the others before, or add an adapter.
    ///
    /// `value` is a [`rlaif_lm::ValueHead`] on the policy's trunk, or a separate model
    /// ([`crate::ValueModel`]).
    ///
    /// # Errors
    /// [`PpoError::Setting`] names the first field that is out of range or does not fit the policy;
    /// [`PpoError::Rollout`] a generation setting that breaks training ([`PpoTrainer::warnings`]
    /// lists those that may); [`PpoError::Train`] for the optimizer's settings.
    pub fn new(
        policy: P,
        value: impl ValueFunction + 'static,
        reference: Reference,
        config: PpoConfig,
    ) -> Result<Self, PpoError> {
        config.check()?;
        let warnings = config.check_policy(policy.spec())?;
        if let Reference::Given = reference {
            let expected = "a frozen copy of the policy, or its adapters turned off";
            return Err(setting("reference", "none", expected));
        }
        reference.freeze(&policy)?;
        let own = policy.spec().hidden_size;
        if let Some(width) = value.hidden_size().filter(|&width| width != own) {
            return Err(setting(
                "value",
                format!("a head for hidden states of width {width}"),
                format!("one for the policy's, {own}"),
            ));
        }
        let trained = trained_parameters(&policy)?;
        let parameters = trained.into_iter().chain(value.parameters().trainable()).collect();
        let updates = config.steps * config.updates_per_step();
        let optimizer = Optimizer::new(parameters, &config.optimizer, updates)?;
        Ok(Self {
            controller: KlController::new(config.kl.control),
            policy,
            critic: Critic(Box::new(value)),
            reference,
            optimizer,
            config,
            moments: RunningMoments::default(),
            pretraining: Vec::new(),
            warnings,
            step: 0,
        })
    }

    /// Sets the data for the pre-training mix.
    ///
    /// # Errors
    /// [`PpoError::Setting`] if the configuration has no `pretraining`, there are no rows, or a row
    /// has no token to learn; [`PpoError::Lm`] for a row that the policy cannot take.
    pub fn with_pretraining(mut self, rows: Vec<SftRow>) -> Result<Self, PpoError> {
        if self.config.pretraining.is_none() {
            return Err(setting("pretraining", "absent", "a table with `coef` and `batch_size`"));
        }
        if rows.is_empty() {
            return Err(setting("pretraining.data", "empty", "at least one row"));
        }
        let drawn = self.config.pretraining.map_or(0, |mix| mix.batch_size);
        if drawn > rows.len() {
            let expected = format!("at most the number of texts, which is {}", rows.len());
            return Err(setting("pretraining.batch_size", drawn, expected));
        }
        let spec = self.policy.spec();
        for (at, row) in rows.iter().enumerate() {
            spec.check(at, &row.prompt)?;
            spec.check(at, &row.response)?;
            if row.learned_tokens() == 0 {
                let found = format!("with nothing to learn in row {at}");
                return Err(setting("pretraining.data", found, "a token to learn in each row"));
            }
            spec.check_length(at, spec.positions(row.prompt.len(), row.response.len()))?;
        }
        self.pretraining = rows;
        Ok(self)
    }

    /// The settings.
    pub fn config(&self) -> &PpoConfig {
        &self.config
    }

    /// Warnings about generation settings, or the policy's special ids, that may do harm.
    pub fn warnings(&self) -> &[RolloutConcern] {
        &self.warnings
    }

    /// The policy.
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// The policy, to save or merge its adapters. The trainer keeps its parameters.
    pub fn policy_mut(&mut self) -> &mut P {
        &mut self.policy
    }

    /// The value function.
    pub fn value(&self) -> &dyn ValueFunction {
        &*self.critic.0
    }

    /// Number of updates made.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// β, the KL coefficient for the next step.
    pub fn kl_coef(&self) -> f64 {
        self.controller.coef()
    }

    /// Returns the trained policy.
    pub fn into_policy(self) -> P {
        self.policy
    }

    /// One step: rollout, advantages, update.
    ///
    /// # Errors
    /// Those of the three stages.
    pub fn step(
        &mut self,
        prompts: &[Prompt],
        codec: &dyn TextCodec,
        reward: &dyn RewardModel,
    ) -> Result<(Rollout, PpoStats), PpoError> {
        self.step_from(&mut LocalSampler::new(codec), prompts, reward)
    }

    /// As [`Self::step`], with responses of another sampler.
    ///
    /// # Errors
    /// As [`Self::step`], and what the sampler refuses.
    pub fn step_from(
        &mut self,
        sampler: &mut dyn Sampler,
        prompts: &[Prompt],
        reward: &dyn RewardModel,
    ) -> Result<(Rollout, PpoStats), PpoError> {
        let rollout = self.rollout_from(sampler, prompts, reward)?;
        let advantages = self.advantages(&rollout)?;
        let stats = self.update(&rollout, &advantages)?;
        Ok((rollout, stats))
    }

    /// Samples a response to each prompt, scores it, and runs policy, value function and reference
    /// on its tokens.
    ///
    /// The samples of a row depend on the seed, the step and the record's id, not on its batch.
    ///
    /// # Errors
    /// [`PpoError::Rows`] unless there are `batch_size` prompts; [`PpoError::Lm`] for a prompt that
    /// does not fit the context with `max_new_tokens`, before anything is sampled;
    /// [`PpoError::Codec`], [`PpoError::Reward`]; [`PpoError::NoScore`].
    pub fn rollout(
        &mut self,
        prompts: &[Prompt],
        codec: &dyn TextCodec,
        reward: &dyn RewardModel,
    ) -> Result<Rollout, PpoError> {
        self.rollout_from(&mut LocalSampler::new(codec), prompts, reward)
    }

    /// As [`Self::rollout`], with the responses of another sampler.
    ///
    /// # Errors
    /// As [`Self::rollout`], and any error of the sampler.
    pub fn rollout_from(
        &mut self,
        sampler: &mut dyn Sampler,
        prompts: &[Prompt],
        reward: &dyn RewardModel,
    ) -> Result<Rollout, PpoError> {
        self.check_ready()?;
        let (config, spec) = (&self.config, self.policy.spec());
        check_prompts(prompts, config.batch_size, &config.generation, spec)?;
        let start = Instant::now();
        let weights = Weights { version: self.step, ..Weights::of(&self.policy) };
        let draw = Draw { seed: self.config.seed.derive("rollout", 0), step: self.step };
        let sampled =
            play(sampler, prompts, SamplerCall { weights, how: &self.config.generation, draw })?;
        let generated = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let scores = score(prompts, &sampled, reward)?;
        let scored = start.elapsed().as_secs_f64();
        let seconds = vec![("generate", generated), ("reward", scored)];
        self.ask(prompts, sampled, (reward.name(), &scores), seconds)
    }

    /// A rollout of given responses, as TRL 0.11's `step` takes them: token ids of queries, of
    /// responses (with EOS or one of `generation.stop_ids` at the end, without a decoder's start
    /// token), and a score for each.
    ///
    /// # Errors
    /// [`PpoError::Rows`] unless there are `batch_size` of each; [`PpoError::Score`],
    /// [`PpoError::EmptyResponse`], [`PpoError::Lm`] for rows that cannot be used.
    pub fn rollout_of(
        &mut self,
        queries: Vec<Vec<u32>>,
        responses: Vec<Vec<u32>>,
        scores: &[f64],
    ) -> Result<Rollout, PpoError> {
        self.check_ready()?;
        let size = self.config.batch_size;
        for (what, found) in
            [("queries", queries.len()), ("responses", responses.len()), ("scores", scores.len())]
        {
            if found != size {
                return Err(PpoError::Rows { what, expected: size, found });
            }
        }
        if let Some(row) = scores.iter().position(|score| !(*score as f32).is_finite()) {
            return Err(PpoError::Score { row, found: scores[row] });
        }
        let spec = self.policy.spec();
        let finish = |ids: &[u32]| match ids.last() {
            Some(&id) if spec.is_eos(id) => FinishReason::Eos,
            Some(id) if self.config.generation.stop_ids.contains(id) => FinishReason::Stop,
            _ => FinishReason::Length,
        };
        let sampled = responses
            .into_iter()
            .map(|ids| Sampled {
                finish: finish(&ids),
                ids,
                log_probs: None,
                text: String::new(),
                version: self.step,
                played: None,
            })
            .collect();
        let prompts: Vec<Prompt> = (queries.into_iter().enumerate())
            .map(|(row, ids)| Prompt::new(PromptRecord::new(row.to_string(), ""), ids))
            .collect();
        let values: Vec<f32> = scores.iter().map(|&score| score as f32).collect();
        let scores = Scores::from_values("scores", &values)?;
        self.ask(&prompts, sampled, ("scores", &scores), Vec::new())
    }

    /// Checks settings that need an input given after [`Self::new`].
    fn check_ready(&self) -> Result<(), PpoError> {
        if self.config.pretraining.is_some() && self.pretraining.is_empty() {
            let expected = "texts to mix in (`PpoTrainer::with_pretraining`), or nothing";
            return Err(setting("pretraining", "set, without texts", expected));
        }
        Ok(())
    }

    /// Runs the models on the tokens of scored responses.
    fn ask(
        &mut self,
        prompts: &[Prompt],
        mut sampled: Vec<Sampled>,
        scores: (&str, &Scores),
        seconds: Vec<(&'static str, f64)>,
    ) -> Result<Rollout, PpoError> {
        self.accounting().mark_start(&mut sampled, self.policy.spec());
        let orders = self.orders();
        let length = |row: usize| sampled[row].ids.len();
        let chunks = orders[0]
            .chunks(self.config.minibatch_size)
            .flat_map(|minibatch| self.split(minibatch, length))
            .collect();
        let mut moments = self.moments;
        let plan = Plan {
            step: self.step,
            scores: &self.config.scores,
            moments: &mut moments,
            orders,
            chunks,
            seconds,
        };
        let asking = Asking {
            policy: &self.policy,
            forward: Forward { dropout: Dropout::Off, ..self.training_forward() },
            critic: Some(&*self.critic.0),
            reference: &self.reference,
            estimator: self.config.kl.estimator,
            temperature: self.config.generation.sampling.temperature(),
            keep: None,
            world: self.optimizer.world(),
        };
        let mut rollout = Rollout::ask(&asking, prompts, sampled, scores, plan)?;
        self.accounting().unmark_episodes(&mut rollout, self.policy.spec());
        self.moments = moments;
        Ok(rollout)
    }

    /// Rewards per token, and the advantages and returns computed from them.
    ///
    /// # Errors
    /// [`PpoError::StaleRollout`], [`PpoError::Rows`], [`PpoError::Shape`] for a rollout of another
    /// step or another size.
    pub fn advantages(&self, rollout: &Rollout) -> Result<Advantages, PpoError> {
        rollout.check(self.step, self.config.batch_size)?;
        let start = Instant::now();
        let _guard = tch::no_grad_guard();
        let mask = &rollout.mask;
        let scores = score_tensor(&rollout.shaped_scores, rollout.kl.device());
        let mut rewards = token_rewards(&scores, &rollout.kl, self.controller.coef(), mask);
        let (gamma, lambda) = (self.config.gamma, self.config.gae_lambda);
        // With fewer than two tokens, the variance is undefined.
        let tokens: usize = (0..rollout.len()).map(|row| rollout.tokens(row)).sum();
        if self.config.reward_whitening == Whitening::Batch && tokens > 1 {
            let (accounting, spec) = (self.accounting(), self.policy.spec());
            rewards = accounting.whiten_rewards(&rewards, rollout, spec, gamma * lambda);
        }
        let rewards_s = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let mut found = Gae { gamma, lambda }.of(rollout, &rewards)?;
        let whitening = self.config.advantage_whitening;
        found.advantages = whitening.of(found.advantages, mask, tokens, Whiten::Centered);
        found.seconds.push(("compute_rewards", rewards_s));
        found.seconds.push(("compute_advantages", start.elapsed().as_secs_f64()));
        Ok(found)
    }

    /// The accounting of tokens, losses and steps.
    pub(crate) fn accounting(&self) -> Accounting {
        self.config.compatibility.into()
    }

    /// The orders of all epochs at this step.
    fn orders(&self) -> Vec<Vec<usize>> {
        let seed = self.config.seed.derive("minibatches", self.step);
        (0..self.config.epochs as u64)
            .map(|epoch| permutation(self.config.batch_size, seed.derive("epoch", epoch)))
            .collect()
    }

    /// Splits a minibatch into passes.
    pub(crate) fn split(
        &self,
        minibatch: &[usize],
        length: impl Fn(usize) -> usize,
    ) -> Vec<Vec<usize>> {
        self.accounting().passes(minibatch, length, self.config.microbatch())
    }

    /// The settings of a training pass.
    pub(crate) fn training_forward(&self) -> Forward<'static> {
        let PpoConfig { dropout, activations, .. } = self.config;
        Forward { dropout, adapters: Adapters::Active, activations, ..Forward::default() }
    }
}
