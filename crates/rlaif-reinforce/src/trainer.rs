//! The algorithm's stages: 1 rollout, 2 weights of tokens, 3 update.

use std::cell::RefCell;

use rlaif_core::{BadSetting, Metrics, RewardModel};
use rlaif_lm::{Adapters, Dropout, Forward, Policy, Reference, Sampled, Sampler};
use rlaif_rl::{
    Asking, Groups, Mismatch, Plan, Prompt, RlError, Rollout, RunningMoments, Stats, check_prompts,
    permutation, trained_parameters,
};
use rlaif_train::{KlEstimator, Optimizer};

use crate::{
    algorithm::{Algorithm, TokenWeights},
    collect::{Collected, Source},
    config::ReinforceConfig,
    curriculum::PassRates,
    experience::Experience,
    schedule::{Minibatch, Sizes, schedule},
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
    pub(crate) pass_rates: PassRates,
    warnings: Vec<String>,
    pub(crate) step: u64,
}

/// Outcome of sampling.
enum Gathered {
    Experience(Box<Experience>),
    /// No group teaches anything.
    Nothing {
        left_out: usize,
        pass_rate: Option<f64>,
    },
}

/// The prompts of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Indices of the prompts of the batch.
    pub rows: Vec<usize>,
    /// Indices of further prompts, for dynamic sampling.
    pub spare: Vec<usize>,
    /// Statistics of the choice.
    pub metrics: Metrics,
}

/// The last token of each step and its score, by row.
type Steps = Vec<Vec<(usize, f64)>>;

/// The steps of responses; `None` if the reward scores no steps.
fn steps_of(collected: &Collected, sampler: &dyn Sampler) -> Result<Option<Steps>, RlError> {
    if collected.scores.steps.is_empty() {
        return Ok(turns_of(&collected.sampled));
    }
    let mut all = vec![Vec::new(); collected.sampled.len()];
    for (row, steps) in &collected.scores.steps {
        let Some((response, of_row)) = collected.sampled.get(*row).zip(all.get_mut(*row)) else {
            continue;
        };
        // The reward has read the last turn of an episode.
        let given = response.played.as_ref().and_then(|played| played.given.last());
        let begin = given.map_or(0, |range| range.end);
        for step in steps {
            let tokens = sampler.tokens_before(&response.ids[begin..], step.end)?;
            let tokens = begin + tokens.ok_or(RlError::NoTokensOfSteps)?.max(1);
            of_row.push((tokens - 1, f64::from(step.score.get())));
        }
        // What ends the response belongs to its last step.
        if let Some((last, _)) = of_row.last_mut() {
            *last = response.ids.len().saturating_sub(1);
        }
    }
    Ok(Some(all))
}

/// The turns of episodes as steps; `None` without episodes.
fn turns_of(sampled: &[Sampled]) -> Option<Steps> {
    let of_row = |response: &Sampled| response.played.as_ref().map(|played| played.rewards.clone());
    let turns: Vec<_> = sampled.iter().map(of_row).collect();
    let any = turns.iter().any(Option::is_some);
    any.then(|| turns.into_iter().map(Option::unwrap_or_default).collect())
}

/// Adds the statistics of sampled groups.
pub(crate) fn count_groups(stats: &mut Stats, left_out: usize, pass_rate: Option<f64>) {
    stats.push("groups/left_out", left_out as f64);
    if let Some(pass_rate) = pass_rate {
        stats.push("curriculum/pass_rate", pass_rate);
    }
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
        let trained = trained_parameters(&policy)?;
        let updates = config.steps * config.updates_per_step();
        let optimizer = Optimizer::new(trained, &config.optimizer, updates)?;
        Ok(Self {
            policy,
            reference,
            algorithm: Box::new(algorithm),
            config,
            optimizer,
            moments: RunningMoments::default(),
            pass_rates: PassRates::default(),
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
        let experience = match self.gather(prompts, spare, sampler, reward)? {
            Gathered::Experience(experience) => *experience,
            Gathered::Nothing { left_out, pass_rate } => {
                self.step += 1;
                let mut stats = Stats { step: self.step, ..Stats::default() };
                count_groups(&mut stats, left_out, pass_rate);
                return Ok((None, stats));
            }
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
        Ok(match self.gather(prompts, spare, sampler, reward)? {
            Gathered::Experience(experience) => Some(*experience),
            Gathered::Nothing { .. } => None,
        })
    }

    fn gather(
        &mut self,
        prompts: &[Prompt],
        spare: &mut dyn Iterator<Item = Prompt>,
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<Gathered, RlError> {
        let (config, spec) = (&self.config, self.policy.spec());
        check_prompts(prompts, config.prompts_per_step(), &config.generation, spec)?;
        let mut source =
            Source { sampler, reward, policy: &self.policy, config: &self.config, step: self.step };
        let collected = source.collect(prompts, spare)?;
        let (left_out, solved, pass_rate) =
            (collected.left_out, collected.solved.clone(), collected.pass_rate());
        if collected.prompts.is_empty() {
            self.pass_rates.observe(self.step, &solved);
            return Ok(Gathered::Nothing { left_out, pass_rate });
        }
        let greedy = match self.algorithm.needs_greedy() {
            true => Some(source.greedy(&collected.prompts, self.config.group())?),
            false => None,
        };
        let steps = steps_of(&collected, source.sampler)?;
        let experience = Experience { steps, ..self.experience(collected, greedy, reward.name())? };
        self.pass_rates.observe(self.step, &solved);
        Ok(Gathered::Experience(Box::new(experience)))
    }

    /// The prompts of the next step: with a [`crate::Curriculum`], others in place of those of `rows`
    /// that it does not use yet or any more; and further prompts for dynamic sampling. Statistics of
    /// the choice are metrics.
    ///
    /// ```no_run
    /// # use rlaif_reinforce::{ReinforceTrainer, lm::{Policy, Sampler}, core::RewardModel, rl::{Prompt, RlError}};
    /// # fn step<P: Policy>(trainer: &mut ReinforceTrainer<P>, prompts: &[Prompt], rows: &[usize],
    /// #     sampler: &mut dyn Sampler, reward: &dyn RewardModel) -> Result<(), RlError> {
    /// let choice = trainer.choose(prompts, rows);
    /// let own: Vec<Prompt> = choice.rows.iter().map(|&row| prompts[row].clone()).collect();
    /// let mut spare = choice.spare.iter().map(|&row| prompts[row].clone());
    /// let (experience, mut stats) = trainer.step(&own, &mut spare, sampler, reward)?;
    /// stats.metrics.extend(choice.metrics);
    /// # Ok(())
    /// # }
    /// ```
    pub fn choose(&self, prompts: &[Prompt], rows: &[usize]) -> Choice {
        let seed = self.config.seed;
        let Some(curriculum) = &self.config.curriculum else {
            // The order is drawn only if needed: data may be large.
            let dynamic = self.config.settings().dynamic_sampling.rounds > 0;
            let order = match dynamic {
                true => permutation(prompts.len(), seed.derive("spare", self.step)),
                false => Vec::new(),
            };
            let spare = order.into_iter().filter(|row| !rows.contains(row)).collect();
            return Choice { rows: rows.to_vec(), spare, metrics: Metrics::default() };
        };
        let chosen = self.pass_rates.choose(curriculum, prompts, rows, self.step, seed);
        let mut metrics = Metrics::default();
        metrics.set("curriculum/prompts", chosen.pool as f64);
        let [always, never] = chosen.left_out;
        metrics.set("curriculum/always_solved", always as f64);
        metrics.set("curriculum/never_solved", never as f64);
        Choice { rows: chosen.rows, spare: chosen.spare, metrics }
    }

    /// Asks the models about the tokens of responses.
    fn experience(
        &mut self,
        collected: Collected,
        greedy: Option<Vec<Option<f64>>>,
        reward: &str,
    ) -> Result<Experience, RlError> {
        let pass_rate = collected.pass_rate();
        let Collected { prompts, sampled, scores, left_out, seconds, .. } = collected;
        let groups = Groups::of_size(prompts.len(), self.config.group());
        let schedule = self.schedule(&groups, &sampled);
        let mut moments = self.moments;
        let pass = RefCell::new(None);
        let plan = Plan {
            step: self.step,
            scores: &self.config.scores,
            moments: &mut moments,
            orders: schedule.iter().map(|epoch| epoch.concat().concat()).collect(),
            chunks: schedule[0].concat(),
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
            // Another update of the weights would make the graph useless; dropout draws other numbers.
            keep: (schedule.len() == 1 && schedule[0].len() == 1)
                .then_some(&pass)
                .filter(|_| self.config.dropout == Dropout::Off)
                // Routers are collected in the update.
                .filter(|_| self.config.router_aux_loss_coef == 0.),
            world: self.optimizer.world(),
        };
        let rollout = Rollout::ask(&asking, &prompts, sampled, (reward, &scores), plan)?;
        self.moments = moments;
        let mismatch = match &rollout.sampler_log_probs {
            Some(sampler) => Mismatch::of(&rollout.log_probs, sampler, &rollout.mask),
            None => Mismatch::default(),
        };
        let steps = None;
        Ok(Experience {
            rollout,
            groups,
            greedy,
            steps,
            mismatch,
            left_out,
            pass_rate,
            schedule,
            pass,
        })
    }

    fn schedule(&self, groups: &Groups, sampled: &[Sampled]) -> Vec<Vec<Minibatch>> {
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
