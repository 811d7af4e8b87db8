//! The algorithm: 1 rollout, 2 advantages, 3 update.

use std::time::Instant;

use rlaif_core::{Exchange, RewardModel, Scores, TextCodec, stats::RunningMoments};
use rlaif_lm::{
    Activations, Adapters, Draw, Dropout, Forward, LocalSampler, Padding, Policy, Reference,
    RowIds, Sampled, Sampler, TokenBatch, ValueFunction, Weights, Whiten,
    generate::{Ask, FinishReason, RolloutConcern},
    policy_log_probs,
};
use rlaif_train::{Advantages, KlController, KlEstimator, Optimizer, SftRow, full_kl, gae};
use tch::Tensor;

use crate::{
    config::{Compatibility, PpoConfig, Whitening, setting},
    error::PpoError,
    loss::token_rewards,
    rollout::{Prompt, Rollout, counted, gather, permutation, score_tensor},
    stats::{PpoStats, host},
};

/// Proximal policy optimization of a language model, in a loop of your own:
///
/// ```text
/// for batch in prompts {
///     let rollout = trainer.rollout(&batch, &codec, &reward)?;   // responses, scores, log-probs, values
///     let advantages = trainer.advantages(&rollout)?;            // KL penalty, score, GAE
///     let stats = trainer.update(&rollout, &advantages)?;        // epochs of minibatches
/// }
/// ```
///
/// [`PpoTrainer::step`] is the three in one. Between them, everything can be looked at, and
/// replaced: fields of [`Rollout`] and [`Advantages`] are public.
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
    /// Seconds that the last call of [`Self::advantages`] took for rewards, and for the rest.
    pub(crate) rewards_s: f64,
    pub(crate) advantages_s: f64,
}

/// The value function, boxed.
pub(crate) struct Critic(pub(crate) Box<dyn ValueFunction>);

impl std::fmt::Debug for Critic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.parameters().iter().map(|(name, _)| name)).finish()
    }
}

impl<P: Policy> PpoTrainer<P> {
    /// A trainer at its first step. What is trained of `policy` is what requires a gradient: freeze
    /// the rest before, or add an adapter.
    ///
    /// `value` is a [`rlaif_lm::ValueHead`] on the policy's trunk, or a model of its own
    /// ([`crate::ValueModel`]).
    ///
    /// # Errors
    /// [`PpoError::Setting`] names the first field that is out of range or does not fit the policy;
    /// [`PpoError::Rollout`] a setting of generation that breaks training, where
    /// [`PpoTrainer::warnings`] has those that may; [`PpoError::Train`] for the optimizer's.
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
        let trained = policy.parameters().trainable();
        if trained.is_empty() {
            return Err(setting(
                "policy",
                "frozen as a whole",
                "parameters that are trained: set `requires_grad`, or add an adapter",
            ));
        }
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
            rewards_s: 0.,
            advantages_s: 0.,
        })
    }

    /// Gives the pre-training data that `pretraining` mixes in.
    ///
    /// # Errors
    /// [`PpoError::Setting`] if the configuration has no `pretraining`, there are no rows, or one has
    /// nothing to learn; [`PpoError::Lm`] for a row that the policy cannot take.
    pub fn with_pretraining(mut self, rows: Vec<SftRow>) -> Result<Self, PpoError> {
        if self.config.pretraining.is_none() {
            return Err(setting("pretraining", "absent", "a table with `coef` and `rows`"));
        }
        if rows.is_empty() {
            return Err(setting("pretraining.data", "empty", "at least one row"));
        }
        let drawn = self.config.pretraining.map_or(0, |mix| mix.rows);
        if drawn > rows.len() {
            let expected = format!("at most the number of texts, which is {}", rows.len());
            return Err(setting("pretraining.rows", drawn, expected));
        }
        let spec = self.policy.spec();
        for (at, row) in rows.iter().enumerate() {
            spec.check(at, &row.prompt)?;
            spec.check(at, &row.response)?;
            if row.learned_tokens() == 0 {
                let found = format!("with nothing to learn in row {at}");
                return Err(setting("pretraining.data", found, "a token to learn in each row"));
            }
            if spec.decoder_start_id.is_none() {
                spec.check_length(at, row.prompt.len() + row.response.len())?;
            }
        }
        self.pretraining = rows;
        Ok(self)
    }

    /// The settings.
    pub fn config(&self) -> &PpoConfig {
        &self.config
    }

    /// What in the settings of generation, or in the policy's special ids, may do harm.
    pub fn warnings(&self) -> &[RolloutConcern] {
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

    /// The value function.
    pub fn value(&self) -> &dyn ValueFunction {
        &*self.critic.0
    }

    /// How many updates there have been.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// β, the KL coefficient of the next step.
    pub fn kl_coef(&self) -> f64 {
        self.controller.coef()
    }

    /// The policy, trained.
    pub fn into_policy(self) -> P {
        self.policy
    }

    /// One step: rollout, advantages, update.
    ///
    /// # Errors
    /// Those of the three.
    pub fn step(
        &mut self,
        prompts: &[Prompt],
        codec: &dyn TextCodec,
        reward: &dyn RewardModel,
    ) -> Result<(Rollout, PpoStats), PpoError> {
        let rollout = self.rollout(prompts, codec, reward)?;
        let advantages = self.advantages(&rollout)?;
        let stats = self.update(&rollout, &advantages)?;
        Ok((rollout, stats))
    }

    /// Samples a response to each prompt, has it scored, and asks policy, value function and
    /// reference about its tokens.
    ///
    /// What a row samples depends on the seed, the step and the record's id, not on its batch.
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

    /// As [`Self::rollout`], with responses of another sampler.
    ///
    /// # Errors
    /// As [`Self::rollout`], and what the sampler refuses.
    pub fn rollout_from(
        &mut self,
        sampler: &mut dyn Sampler,
        prompts: &[Prompt],
        reward: &dyn RewardModel,
    ) -> Result<Rollout, PpoError> {
        self.check_ready()?;
        self.check_prompts(prompts)?;

        // 1. Responses.
        let start = Instant::now();
        let mut ids = RowIds::default();
        let asks: Vec<Ask> = prompts
            .iter()
            .map(|prompt| Ask {
                id: ids.of(&prompt.record.id),
                prompt: prompt.ids.clone(),
                max_new_tokens: None,
            })
            .collect();
        let weights = Weights { version: self.step, ..Weights::of(&self.policy) };
        let draw = Draw { seed: self.config.seed.derive("rollout", 0), step: self.step };
        let sampled = sampler.sample(weights, &asks, &self.config.generation, draw)?;
        if sampled.len() != prompts.len() {
            let (expected, found) = (prompts.len(), sampled.len());
            return Err(PpoError::Rows { what: "responses of the sampler", expected, found });
        }
        let generate_s = start.elapsed().as_secs_f64();

        // 2. Scores, of texts.
        let start = Instant::now();
        let exchanges: Vec<Exchange<'_>> = prompts
            .iter()
            .zip(&sampled)
            .map(|(prompt, response)| prompt.record.exchange(&response.text))
            .collect();
        let scores = reward.score(&exchanges)?.check(reward.name(), exchanges.len())?;
        let reward_s = start.elapsed().as_secs_f64();

        // 3. What the models say of the tokens.
        let finish: Vec<FinishReason> = sampled.iter().map(|response| response.finish).collect();
        let ended: Vec<bool> = sampled.iter().map(Sampled::is_finished).collect();
        let mut texts = Vec::with_capacity(sampled.len());
        let mut sampler_log_probs = Vec::with_capacity(sampled.len());
        let mut responses = Vec::with_capacity(sampled.len());
        for response in sampled {
            texts.push(response.text);
            sampler_log_probs.push(response.log_probs);
            responses.push(response.ids);
        }
        let mut rollout = self.assemble(
            prompts.iter().map(|prompt| prompt.ids.clone()).collect(),
            responses,
            &ended,
            (reward.name(), &scores),
        )?;
        rollout.seconds.insert(0, ("generate", generate_s));
        rollout.seconds.insert(1, ("reward", reward_s));
        let known: Option<Vec<Vec<f32>>> = sampler_log_probs.into_iter().collect();
        rollout.sampler_gap = known.map(|known| gap(&rollout, &known));
        rollout.records = prompts.iter().map(|prompt| prompt.record.clone()).collect();
        rollout.texts = texts;
        rollout.finish = finish;
        Ok(rollout)
    }

    /// A rollout of responses that come from elsewhere, as TRL 0.11's `step` takes them: token ids
    /// of queries, of responses (with EOS or one of `generation.stop_ids` where they end, without a
    /// decoder's start token), and a score for each.
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
        let ends = |id: &u32| spec.is_eos(*id) || self.config.generation.stop_ids.contains(id);
        let ended: Vec<bool> = responses.iter().map(|r| r.last().is_some_and(ends)).collect();
        let values: Vec<f32> = scores.iter().map(|&score| score as f32).collect();
        let scores = Scores::from_values("scores", &values)?;
        self.assemble(queries, responses, &ended, ("scores", &scores))
    }

    /// Settings that only make sense with something given after [`Self::new`].
    fn check_ready(&self) -> Result<(), PpoError> {
        if self.config.pretraining.is_some() && self.pretraining.is_empty() {
            let expected = "texts to mix in (`PpoTrainer::with_pretraining`), or nothing";
            return Err(setting("pretraining", "set, without texts", expected));
        }
        Ok(())
    }

    fn check_prompts(&self, prompts: &[Prompt]) -> Result<(), PpoError> {
        let expected = self.config.batch_size;
        if prompts.len() != expected {
            return Err(PpoError::Rows { what: "prompts", expected, found: prompts.len() });
        }
        let spec = self.policy.spec();
        for (row, prompt) in prompts.iter().enumerate() {
            spec.check(row, &prompt.ids)?;
            if spec.decoder_start_id.is_none() {
                let length = prompt.ids.len() + self.config.generation.max_new_tokens;
                spec.check_length(row, length)?;
            }
        }
        Ok(())
    }

    /// Log-probabilities, values and KL of given responses.
    fn assemble(
        &mut self,
        queries: Vec<Vec<u32>>,
        responses: Vec<Vec<u32>>,
        ended: &[bool],
        (reward, given): (&str, &Scores),
    ) -> Result<Rollout, PpoError> {
        let start = Instant::now();
        if let Some(row) = responses.iter().position(Vec::is_empty) {
            return Err(PpoError::EmptyResponse { row });
        }
        let scores = self.config.scores.resolve(reward, given, ended)?;
        if scores.iter().all(Option::is_none) {
            return Err(PpoError::NothingScored);
        }
        let mut moments = self.moments;
        let mut shaped_scores = scores.clone();
        self.config.scores.shape(&mut shaped_scores, &mut moments);

        let spec = self.policy.spec();
        let prompts = TokenBatch::collate(queries, spec, Padding::Right)?;
        let responses = TokenBatch::responses(responses, spec)?;
        let mask = counted(&responses, &scores, self.skipped());
        let orders = self.orders();
        let chunks = self.microbatches(&orders[0], &responses);
        let [log_probs, ref_log_probs, kl, values] =
            self.ask(&prompts, &responses, &chunks)?.map(|x| mask.apply(&x));
        self.moments = moments;
        Ok(Rollout {
            step: self.step,
            records: Vec::new(),
            prompts,
            responses,
            texts: Vec::new(),
            finish: Vec::new(),
            mask,
            log_probs,
            ref_log_probs,
            kl,
            values,
            scores,
            parts: given
                .parts
                .iter()
                .map(|(name, part)| {
                    let part = part.iter().map(|s| s.map(|s| f64::from(s.get()))).collect();
                    (name.clone(), part)
                })
                .collect(),
            shaped_scores,
            orders,
            sampler_gap: None,
            seconds: vec![("forward_pass", start.elapsed().as_secs_f64())],
        })
    }

    /// Log-probabilities by the policy and by the reference, KL estimates and values, `[B, T]`
    /// each, computed in `chunks`.
    fn ask(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        chunks: &[Vec<usize>],
    ) -> Result<[Tensor; 4], PpoError> {
        let temperature = self.config.generation.sampling.temperature();
        let mut pieces: [Vec<Tensor>; 4] = Default::default();
        for rows in chunks {
            let (x, y) = (prompts.select(rows)?, responses.select(rows)?);
            // With gradients recorded, though none is wanted: libtorch chooses other kernels
            // without, and the ratio of the first minibatch would be 1 but for rounding.
            let forward = Forward { dropout: Dropout::Off, ..self.training_forward() };
            let (hidden, head, log_probs, values) = {
                let found = policy_log_probs(&self.policy, &x, &y, forward, temperature)?;
                let values = self.critic.0.values(&x, &y, &found.hidden)?.detach();
                // The graph is gone before the reference's pass.
                (found.hidden.detach(), found.head, found.log_probs.detach(), values)
            };

            let _guard = tch::no_grad_guard();
            let reference = self.reference.resolve(&self.policy);
            let (reference, forward) = reference.expect("`new` refuses to go without a reference");
            let of_reference = policy_log_probs(reference, &x, &y, forward, temperature)?;
            let ref_log_probs = of_reference.log_probs;
            let kl = match self.config.kl.estimator {
                KlEstimator::Full => full_kl(
                    &head,
                    &hidden,
                    &of_reference.head,
                    &of_reference.hidden,
                    &y,
                    temperature,
                )?,
                estimator => estimator.estimate(&log_probs, &ref_log_probs),
            };
            for (pieces, piece) in pieces.iter_mut().zip([log_probs, ref_log_probs, kl, values]) {
                pieces.push(piece);
            }
        }
        let whole = |pieces: &[Tensor]| gather(pieces, chunks, responses.width());
        let [a, b, c, d] = &pieces;
        Ok([whole(a)?, whole(b)?, whole(c)?, whole(d)?])
    }

    /// Rewards per token, and from them advantages and returns.
    ///
    /// # Errors
    /// [`PpoError::StaleRollout`], [`PpoError::Rows`], [`PpoError::Shape`] for a rollout that is not
    /// of this step and of this size.
    pub fn advantages(&mut self, rollout: &Rollout) -> Result<Advantages, PpoError> {
        self.check_rollout(rollout)?;
        let start = Instant::now();
        let _guard = tch::no_grad_guard();
        let mask = &rollout.mask;
        let scores = score_tensor(&rollout.shaped_scores, rollout.kl.device());
        let mut rewards = token_rewards(&scores, &rollout.kl, self.controller.coef(), mask);
        // With fewer than two tokens there is no variance to divide by.
        let tokens: usize = (0..rollout.len()).map(|row| rollout.tokens(row, self.skipped())).sum();
        let whitens = |whitening| whitening == Whitening::Batch && tokens > 1;
        if whitens(self.config.reward_whitening) {
            let leak = self.is_trl().then(|| self.whitened_padding(rollout, &rewards));
            rewards = mask.whiten(&rewards, Whiten::KeepMean);
            if let Some(leak) = leak {
                rewards += leak;
            }
        }
        self.rewards_s = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let (gamma, lambda) = (self.config.gamma, self.config.gae_lambda);
        let mut found = gae(&rewards, &rollout.values, mask, gamma, lambda);
        if whitens(self.config.advantage_whitening) {
            found.advantages = mask.whiten(&found.advantages, Whiten::Centered);
        }
        self.advantages_s = start.elapsed().as_secs_f64();
        Ok(found)
    }

    /// TRL whitens padding along with rewards, so that every padded position has the reward
    /// `c = μ − μ / √(σ² + 1e-8)`. With n of them behind a response, generalized advantage
    /// estimation brings `γλ c (1 + γλ + … + (γλ)ⁿ⁻¹)` to its last token.
    fn whitened_padding(&self, rollout: &Rollout, rewards: &Tensor) -> Tensor {
        let mask = &rollout.mask;
        let mean = mask.mean(rewards);
        let c = &mean - &mean * (mask.variance(rewards) + 1e-8).rsqrt();
        let with_query = self.policy.spec().decoder_start_id.is_none();
        let lengths: Vec<usize> = rollout
            .prompts
            .rows()
            .iter()
            .zip(rollout.responses.rows())
            .map(|(x, y)| if with_query { x.len() + y.len() } else { y.len() })
            .collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let decay = self.config.gamma * self.config.gae_lambda;
        let sums: Vec<Option<f64>> = lengths
            .iter()
            .map(|length| Some((1..=longest - length).fold(0., |sum, _| decay * (sum + 1.))))
            .collect();
        let sums = score_tensor(&sums, rewards.device());
        token_rewards(&(sums * c), &rewards.zeros_like(), 0., mask)
    }

    /// Whether a rollout, whose fields anybody may have replaced, is one of this step.
    pub(crate) fn check_rollout(&self, rollout: &Rollout) -> Result<(), PpoError> {
        if rollout.step != self.step {
            return Err(PpoError::StaleRollout { expected: self.step, found: rollout.step });
        }
        let expected = self.config.batch_size;
        for (what, found) in [
            ("prompts of the rollout", rollout.prompts.len()),
            ("responses of the rollout", rollout.responses.len()),
            ("scores of the rollout", rollout.scores.len()),
            ("shaped scores of the rollout", rollout.shaped_scores.len()),
        ] {
            if found != expected {
                return Err(PpoError::Rows { what, expected, found });
            }
        }
        for (what, tensor) in [
            ("mask", rollout.mask.tensor()),
            ("log_probs", &rollout.log_probs),
            ("ref_log_probs", &rollout.ref_log_probs),
            ("kl", &rollout.kl),
            ("values", &rollout.values),
        ] {
            rollout.check_shape(what, tensor)?;
        }
        Ok(())
    }

    /// How many first tokens of a response do not count.
    pub(crate) fn skipped(&self) -> usize {
        let encoder_decoder = self.policy.spec().decoder_start_id.is_some();
        usize::from(self.is_trl() && encoder_decoder)
    }

    pub(crate) fn is_trl(&self) -> bool {
        self.config.compatibility == Compatibility::Trl011
    }

    /// The order of each epoch at this step.
    fn orders(&self) -> Vec<Vec<usize>> {
        let seed = self.config.seed.derive("minibatches", self.step);
        (0..self.config.epochs as u64)
            .map(|epoch| permutation(self.config.batch_size, seed.derive("epoch", epoch)))
            .collect()
    }

    /// The passes over one epoch, minibatch after minibatch.
    fn microbatches(&self, order: &[usize], responses: &TokenBatch) -> Vec<Vec<usize>> {
        order
            .chunks(self.config.minibatch_size)
            .flat_map(|minibatch| self.split(minibatch, responses))
            .collect()
    }

    /// The passes over one minibatch: its rows as they come if one pass takes them all, else by
    /// length, so that short ones are not padded to long ones.
    pub(crate) fn split(&self, minibatch: &[usize], responses: &TokenBatch) -> Vec<Vec<usize>> {
        let size = self.config.microbatch();
        let mut rows = minibatch.to_vec();
        if rows.len() > size && !self.is_trl() {
            rows.sort_by_key(|&row| (responses.rows()[row].len(), row));
        }
        rows.chunks(size).map(<[usize]>::to_vec).collect()
    }

    /// How a training pass is done.
    pub(crate) fn training_forward(&self) -> Forward<'static> {
        use crate::config::{KeptActivations, UpdateDropout};
        Forward {
            dropout: match self.config.dropout {
                UpdateDropout::Off => Dropout::Off,
                UpdateDropout::On => Dropout::On,
            },
            adapters: Adapters::Active,
            activations: match self.config.activations {
                KeptActivations::Keep => Activations::Keep,
                KeptActivations::Recompute => Activations::Recompute,
            },
            ..Forward::default()
        }
    }
}

/// Mean absolute difference between what the sampler and what the training pass made of the same
/// tokens.
fn gap(rollout: &Rollout, sampled: &[Vec<f32>]) -> f64 {
    let width = rollout.responses.width();
    let mut flat = vec![0f32; sampled.len() * width];
    for (row, values) in sampled.iter().enumerate() {
        flat[row * width..row * width + values.len()].copy_from_slice(values);
    }
    let sampled = Tensor::from_slice(&flat)
        .view(rollout.log_probs.size().as_slice())
        .to_device(rollout.log_probs.device());
    let difference = (sampled - &rollout.log_probs).abs();
    host(&rollout.mask.mean(&difference))[0]
}
