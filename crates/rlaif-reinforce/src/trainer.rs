//! The algorithm's stages: 1 rollout, 2 weights of tokens, 3 update.

use std::{cell::RefCell, mem::take, panic::resume_unwind, thread, time::Instant};

use rlaif_core::{BadSetting, Metrics, RewardModel, Scores};
use rlaif_lm::{Dropout, Forward, Policy, Reference, Sampled, Sampler};
use rlaif_rl::{
    Asking, Groups, Mismatch, Plan, Prompt, RlError, Rollout, RunningMoments, Stats, check_prompts,
    permutation, trained_parameters,
};
use rlaif_train::{KlEstimator, Optimizer};

use crate::{
    ahead::{Ahead, Prepared, make_copy, undone},
    algorithm::{Algorithm, TokenWeights},
    collect::{Asked, Collected, Source},
    config::ReinforceConfig,
    curriculum::PassRates,
    experience::{Ages, Experience},
    group::Group,
    replay::{Buffer, Rollouts},
    schedule::{Minibatch, Sizes, schedule},
    update::{Learned, Learner, count_groups},
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
    pub(crate) ahead: Ahead,
    pub(crate) buffer: Buffer,
    warnings: Vec<String>,
    pub(crate) step: u64,
}

/// Outcome of sampling.
pub(crate) enum Gathered {
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
            ahead: Ahead::default(),
            buffer: Buffer::default(),
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

    /// Gives the trainer a second model of the policy's weights, which samples while the policy is trained
    /// ([`Rollouts::Asynchronous`]). It becomes a copy of the policy, and shares the memory of frozen weights.
    ///
    /// # Errors
    /// [`RlError::Setting`] names the first weights that differ from the policy's in name or shape.
    pub fn sampling_copy(mut self, copy: impl Policy + 'static) -> Result<Self, RlError> {
        make_copy(self.policy.parameters(), copy.parameters())?;
        self.ahead.copy = Some(Box::new(copy));
        Ok(self)
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
        let found = self.gather(Asked { prompts, spare }, sampler, reward)?;
        self.finish(found, None, sampler, reward)
    }

    /// As [`ReinforceTrainer::step`] with [`Rollouts::Asynchronous`]: the responses to the prompts of the next step,
    /// and their scores, are asked for while a thread makes the update. The next call trains on them, and does not use
    /// its `prompts`. `None` for the last step.
    ///
    /// The responses are those of the weights before the update, regardless of the time that either takes.
    ///
    /// # Errors
    /// As [`ReinforceTrainer::step`]; [`RlError::Setting`] if the settings are synchronous, or there is no
    /// [`ReinforceTrainer::sampling_copy`].
    pub fn step_ahead(
        &mut self,
        prompts: &[Prompt],
        next: Option<&[Prompt]>,
        spare: &mut dyn Iterator<Item = Prompt>,
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<(Option<Experience>, Stats), RlError> {
        if self.config.rollouts == Rollouts::Synchronous {
            let expected = "`asynchronous`, for responses of the next step";
            return Err(BadSetting::new("rollouts", "synchronous", expected).into());
        }
        let found = self.gather(Asked { prompts, spare: &mut *spare }, sampler, reward)?;
        let next = next.map(|prompts| Asked { prompts, spare });
        self.finish(found, next, sampler, reward)
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
        Ok(match self.gather(Asked { prompts, spare }, sampler, reward)? {
            Gathered::Experience(experience) => Some(*experience),
            Gathered::Nothing { .. } => None,
        })
    }

    /// The experience of a step: its new groups, which may have been sampled ahead, and those of earlier steps.
    pub(crate) fn gather(
        &mut self,
        asked: Asked<'_>,
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<Gathered, RlError> {
        if let Some(error) = self.ahead.failed.take() {
            return Err(error);
        }
        let collected = match take(&mut self.ahead.prepared) {
            Prepared::Sampled(collected) => collected,
            state => {
                let owed = matches!(state, Prepared::Owed);
                // Kept if sampling is interrupted.
                self.ahead.prepared = state;
                let collected = self.collect(asked, owed, sampler, reward)?;
                self.ahead.prepared = Prepared::Nothing;
                collected
            }
        };
        let (left_out, solved, pass_rate) =
            (collected.left_out, collected.solved.clone(), collected.pass_rate());
        let replayed = match self.config.replay {
            Some(replay) => {
                self.buffer.draw(replay, self.config.group(), self.step, self.config.seed)
            }
            None => Vec::new(),
        };
        if collected.groups.is_empty() && replayed.is_empty() {
            self.pass_rates.observe(self.step, &solved);
            return Ok(Gathered::Nothing { left_out, pass_rate });
        }
        let kept = self.config.replay.map(|replay| (replay, self.teaching(&collected.groups)));
        let experience = self.experience(collected, replayed, reward.name())?;
        if let Some((replay, groups)) = kept {
            self.buffer.add(groups, replay, self.step);
        }
        self.pass_rates.observe(self.step, &solved);
        Ok(Gathered::Experience(Box::new(experience)))
    }

    /// Samples the groups of this step: by the weights of the policy, or by the copy if it owes them.
    fn collect(
        &self,
        asked: Asked<'_>,
        owed: bool,
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<Collected, RlError> {
        let (config, spec) = (&self.config, self.policy.spec());
        check_prompts(asked.prompts, config.prompts_per_step(), &config.generation, spec)?;
        let (policy, version): (&dyn Policy, u64) = match owed {
            true => (self.ahead.copy()?, self.step.saturating_sub(1)),
            false => (&self.policy, self.step),
        };
        let greedy = self.algorithm.needs_greedy();
        Source { sampler, reward, policy, config, step: self.step, version, greedy }.collect(asked)
    }

    /// The groups that a later step can learn from.
    fn teaching(&self, groups: &[Group]) -> Vec<Group> {
        let compares = self.config.group() > 1 && self.algorithm.compares_in_groups();
        let teaches = |group: &&Group| !compares || group.differs();
        groups.iter().filter(teaches).cloned().collect()
    }

    /// The rest of a step: the update, and beside it the responses of the next step.
    pub(crate) fn finish(
        &mut self,
        found: Gathered,
        next: Option<Asked<'_>>,
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<(Option<Experience>, Stats), RlError> {
        // Those of this step: beside the update, the reward scores the next one.
        let of_reward = reward.metrics();
        let (experience, mut stats) = self.finish_beside(found, next, sampler, reward)?;
        if self.config.rollouts == Rollouts::Asynchronous {
            stats.metrics.extend(of_reward.into_iter().collect());
        }
        Ok((experience, stats))
    }

    fn finish_beside(
        &mut self,
        found: Gathered,
        next: Option<Asked<'_>>,
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<(Option<Experience>, Stats), RlError> {
        let mut experience = match found {
            Gathered::Experience(experience) => *experience,
            Gathered::Nothing { left_out, pass_rate } => {
                let start = Instant::now();
                if let Some(next) = next {
                    let (_, source) = self.beside(sampler, reward)?;
                    let collected = undone(reward, || checked(source, next));
                    self.ahead.keep(collected);
                }
                self.step += 1;
                let mut stats = Stats { step: self.step, ..Stats::default() };
                count_groups(&mut stats, left_out, pass_rate);
                self.ahead.measure(&mut stats, start.elapsed().as_secs_f64());
                return Ok((None, stats));
            }
        };
        let mut weights = self.weigh(&experience)?;
        let Some(next) = next else {
            let stats = self.update(&experience, &weights)?;
            return Ok((Some(experience), stats));
        };
        let start = Instant::now();
        let (mut learner, source) = self.beside(sampler, reward)?;
        let (shared, of_tokens) = (&mut experience, &mut weights);
        let (learned, collected) = thread::scope(|scope| {
            // Tensors may move to another thread, and may not be shared with it.
            let update = scope.spawn(move || learner.learn(shared, of_tokens));
            let collected = undone(reward, || checked(source, next));
            (update.join().unwrap_or_else(|panic| resume_unwind(panic)), collected)
        });
        let learned = learned?;
        let waited = start.elapsed().as_secs_f64() - learned.seconds;
        let mut stats = self.learned(&experience, &learned);
        self.ahead.keep(collected);
        self.ahead.measure(&mut stats, waited);
        Ok((Some(experience), stats))
    }

    /// The update of this step, and the source of the responses of the next.
    fn beside<'s>(
        &'s mut self,
        sampler: &'s mut dyn Sampler,
        reward: &'s dyn RewardModel,
    ) -> Result<(Learner<'s, P>, Source<'s>), RlError> {
        let Self { policy, optimizer, config, algorithm, ahead, step, .. } = self;
        let (step, greedy) = (*step, algorithm.needs_greedy());
        let copy = ahead.refreshed(policy.parameters())?;
        let source =
            Source { sampler, reward, policy: copy, config, step: step + 1, version: step, greedy };
        let objective = algorithm.objective();
        Ok((Learner { policy, optimizer, config, objective, step }, source))
    }

    /// Trains on a rollout, and advances to the next step.
    ///
    /// # Errors
    /// [`RlError::StaleRollout`], [`RlError::Rows`], [`RlError::Shape`], [`RlError::Order`] for a
    /// rollout or weights that are not of this step and of this size; [`RlError::Lm`] and
    /// [`RlError::Train`] if a model or the optimizer fails.
    pub fn update(
        &mut self,
        experience: &Experience,
        weights: &TokenWeights,
    ) -> Result<Stats, RlError> {
        let learned = self.learner().learn(experience, weights)?;
        Ok(self.learned(experience, &learned))
    }

    /// Statistics of an update, which is the end of the step.
    fn learned(&mut self, experience: &Experience, learned: &Learned) -> Stats {
        self.step += 1;
        let mut stats = learned.statistics(experience, &self.algorithm.objective(), &self.config);
        stats.step = self.step;
        stats.measure(&experience.rollout, &[("optimize_step", learned.seconds)]);
        stats
    }

    pub(crate) fn learner(&mut self) -> Learner<'_, P> {
        let Self { policy, optimizer, config, algorithm, step, .. } = self;
        let objective = algorithm.objective();
        Learner { policy, optimizer, config, objective, step: *step }
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
        self.choose_for(self.step, prompts, rows)
    }

    /// The prompts of a step, by the pass rates so far.
    pub(crate) fn choose_for(&self, step: u64, prompts: &[Prompt], rows: &[usize]) -> Choice {
        let seed = self.config.seed;
        let Some(curriculum) = &self.config.curriculum else {
            // The order is drawn only if needed: data may be large.
            let dynamic = self.config.settings().dynamic_sampling.rounds > 0;
            let order = match dynamic {
                true => permutation(prompts.len(), seed.derive("spare", step)),
                false => Vec::new(),
            };
            let spare = order.into_iter().filter(|row| !rows.contains(row)).collect();
            return Choice { rows: rows.to_vec(), spare, metrics: Metrics::default() };
        };
        let chosen = self.pass_rates.choose(curriculum, prompts, rows, step, seed);
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
        replayed: Vec<Group>,
        reward: &str,
    ) -> Result<Experience, RlError> {
        let pass_rate = collected.pass_rate();
        let Collected { groups, left_out, seconds, .. } = collected;
        let replayed_groups = replayed.len();
        let Rows { prompts, sampled, scores, greedy, steps } =
            Rows::of(groups.into_iter().chain(replayed).collect());
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
            forward: Forward { dropout: Dropout::Off, ..self.config.training_forward() },
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
        let mut rollout = Rollout::ask(&asking, &prompts, sampled, (reward, &scores), plan)?;
        let ages = match self.config.max_staleness() {
            0 => Ages::Same,
            _ => Ages::Recorded,
        };
        if ages == Ages::Recorded {
            let staleness = rollout.staleness();
            if staleness > 0 && rollout.sampler_log_probs.is_none() {
                return Err(RlError::StaleWithoutLogProbs { staleness });
            }
            // Weights that have moved are not a fault of the sampler.
            let new = (0..rollout.len()).filter(|&row| rollout.versions[row] >= self.step);
            rollout.sampler_gap = rollout.sampler_gap_of(&new.collect::<Vec<_>>());
        }
        self.moments = moments;
        let mismatch = match &rollout.sampler_log_probs {
            Some(sampler) => Mismatch::of(&rollout.log_probs, sampler, &rollout.mask),
            None => Mismatch::default(),
        };
        Ok(Experience {
            rollout,
            groups,
            greedy,
            steps,
            mismatch,
            left_out,
            pass_rate,
            schedule,
            replayed: replayed_groups,
            ages,
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
}

/// Samples the groups of the next step.
fn checked(mut source: Source<'_>, asked: Asked<'_>) -> Result<Collected, RlError> {
    let (config, spec) = (source.config, source.policy.spec());
    check_prompts(asked.prompts, config.prompts_per_step(), &config.generation, spec)?;
    source.collect(asked)
}

/// The rows of groups.
struct Rows {
    prompts: Vec<Prompt>,
    sampled: Vec<Sampled>,
    scores: Scores,
    greedy: Option<Vec<Option<f64>>>,
    steps: Option<Vec<Vec<(usize, f64)>>>,
}

impl Rows {
    fn of(groups: Vec<Group>) -> Self {
        let rows = groups.iter().map(|group| group.sampled.len()).sum();
        let mut all = Self {
            prompts: Vec::with_capacity(rows),
            sampled: Vec::with_capacity(rows),
            scores: Scores::new(vec![None; rows]),
            greedy: None,
            steps: None,
        };
        if groups.iter().any(|group| group.greedy.is_some()) {
            all.greedy = Some(Vec::with_capacity(rows));
        }
        if groups.iter().any(|group| group.steps.is_some()) {
            all.steps = Some(Vec::with_capacity(rows));
        }
        for Group { prompt, sampled, scores, greedy, steps } in groups {
            let (from, size) = (all.prompts.len(), sampled.len());
            all.prompts.extend(vec![prompt; size]);
            all.sampled.extend(sampled);
            all.scores.fill_from(scores, &(from..from + size).collect::<Vec<_>>());
            if let Some(all) = &mut all.greedy {
                all.extend(vec![greedy.flatten(); size]);
            }
            if let Some(all) = &mut all.steps {
                all.extend(steps.unwrap_or_else(|| vec![Vec::new(); size]));
            }
        }
        all
    }
}
