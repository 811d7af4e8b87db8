//! The third part of a step: epochs of minibatches over a rollout.

use std::time::Instant;

use rlaif_lm::{Mask, Policy, PolicyLogProbs, policy_log_probs};
use rlaif_train::{Advantages, SftRow, sft_loss};
use tch::{Kind, Tensor, no_grad};

use crate::{
    error::PpoError,
    loss::{policy_loss, value_loss},
    rollout::{Rollout, permutation, pick},
    stats::{self, MEANS, PpoStats, Unit, batch_statistics, host},
    trainer::PpoTrainer,
};

/// What became of an update, from which its statistics are made.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) units: Vec<Unit>,
    /// Ratios and advantages of every token that was trained on.
    pub(crate) tokens: Vec<[Tensor; 2]>,
    /// Which of them count.
    pub(crate) masks: Vec<Mask>,
    /// Optimizer steps that were left out for their ratio, or by the optimizer.
    pub(crate) skipped: usize,
    /// Those by the optimizer, for gradients that hold NaN or infinity.
    pub(crate) not_finite: usize,
    pub(crate) grad_norms: Vec<f64>,
    pub(crate) learning_rate: f64,
    pub(crate) pretraining: Vec<f64>,
    pub(crate) stopped_early: bool,
}

/// How an update goes on after a minibatch.
enum Next {
    Continue,
    Stop,
}

impl<P: Policy> PpoTrainer<P> {
    /// Trains on a rollout, and moves on to the next step.
    ///
    /// # Errors
    /// [`PpoError::StaleRollout`], [`PpoError::Rows`], [`PpoError::Shape`], [`PpoError::Order`] for a
    /// rollout or advantages that are not of this step and of this size; [`PpoError::Lm`] and
    /// [`PpoError::Train`] if a model or the optimizer fails.
    pub fn update(
        &mut self,
        rollout: &Rollout,
        advantages: &Advantages,
    ) -> Result<PpoStats, PpoError> {
        self.check_rollout(rollout)?;
        rollout.check_shape("advantages", &advantages.advantages)?;
        rollout.check_shape("returns", &advantages.returns)?;
        let rows = rollout.len();
        for (epoch, order) in rollout.orders.iter().enumerate() {
            if let Some(&row) = order.iter().find(|&&row| row >= rows) {
                return Err(PpoError::Order { epoch, row, rows });
            }
        }
        let start = Instant::now();
        if self.config.dropout == crate::config::UpdateDropout::On {
            let seed = self.config.seed.derive("dropout", self.step).get();
            tch::manual_seed(seed.cast_signed());
        }
        let mut progress = Progress::default();
        'epochs: for order in &rollout.orders {
            for minibatch in order.chunks(self.config.minibatch_size) {
                if let Next::Stop = self.minibatch(rollout, advantages, minibatch, &mut progress)? {
                    progress.stopped_early = true;
                    break 'epochs;
                }
            }
            if self.is_trl() && self.last_unit_is_far(&progress) {
                progress.stopped_early = true;
                break;
            }
        }
        let optimize_s = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let mut stats = no_grad(|| stats::summarise(self, rollout, &progress));
        self.controller.observe(stats.get("objective/kl"), rollout.len());
        self.step += 1;
        stats.step = self.step;
        let seconds = [
            ("compute_rewards", self.rewards_s),
            ("compute_advantages", self.advantages_s),
            ("optimize_step", optimize_s),
            ("calc_stats", start.elapsed().as_secs_f64()),
        ];
        stats::measure(&mut stats, rollout, &seconds);
        Ok(stats)
    }

    /// TRL's early stopping: the KL of the epoch's last micro-batch, without the mean of the others.
    fn last_unit_is_far(&self, progress: &Progress) -> bool {
        match (self.config.target_kl, progress.units.last()) {
            (Some(target), Some(unit)) => unit.means[stats::POLICY_KL] > 1.5 * target,
            _ => false,
        }
    }

    fn minibatch(
        &mut self,
        rollout: &Rollout,
        advantages: &Advantages,
        minibatch: &[usize],
        progress: &mut Progress,
    ) -> Result<Next, PpoError> {
        let skipped = self.skipped();
        let count = |rows: &[usize]| -> usize {
            rows.iter().map(|&row| rollout.tokens(row, skipped)).sum()
        };
        let tokens = count(minibatch);
        if tokens == 0 {
            return Ok(Next::Continue);
        }
        let mut passes = self.split(minibatch, &rollout.responses);
        passes.retain(|rows| count(rows) > 0);
        let first_unit = progress.units.len();
        let mut whole = Unit::default();
        for rows in &passes {
            // In TRL each micro-batch has its own mean; here every token weighs the same.
            let share = if self.is_trl() {
                1. / passes.len() as f64
            } else {
                count(rows) as f64 / tokens as f64
            };
            let unit = self.pass(rollout, advantages, rows, share, progress)?;
            whole.add(&unit, share);
            if self.is_trl() {
                progress.units.push(unit);
            }
        }
        if !self.is_trl() {
            let batch = host(&batch_statistics(rollout, advantages, minibatch));
            whole.batch.copy_from_slice(&batch);
            progress.units.push(whole);
        }
        if let Some(loss) = self.pretraining_pass(progress)? {
            for unit in &mut progress.units[first_unit..] {
                unit.total += loss;
            }
        }
        self.make_step(progress)
    }

    /// Forward and backward over some rows; their loss counts for `share` of the minibatch's.
    fn pass(
        &mut self,
        rollout: &Rollout,
        advantages: &Advantages,
        rows: &[usize],
        share: f64,
        progress: &mut Progress,
    ) -> Result<Unit, PpoError> {
        let config = &self.config;
        let warmup = self.step < config.value_warmup_steps;
        let (x, y) = (rollout.prompts.select(rows)?, rollout.responses.select(rows)?);
        let width = y.width();
        let of = |tensor: &Tensor| pick(tensor, rows, width);
        let mask = Mask::new(of(rollout.mask.tensor()));
        let [old, old_values, gains, returns] =
            [&rollout.log_probs, &rollout.values, &advantages.advantages, &advantages.returns]
                .map(of);

        let forward = self.training_forward();
        let temperature = config.generation.sampling.temperature();
        let ask = || policy_log_probs(&self.policy, &x, &y, forward, temperature);
        // While the value head warms up, nothing flows into the policy.
        let PolicyLogProbs { hidden, log_probs, entropy, .. } =
            if warmup { no_grad(ask)? } else { ask()? };
        let values = self.critic.0.values(&x, &y, &hidden)?;
        let (log_probs, values) = (mask.apply(&log_probs), mask.apply(&values));

        let policy = policy_loss(&log_probs, &old, &gains, config.clip, config.dual_clip);
        let clip = config.value_clip.is_finite().then_some(config.value_clip);
        let value = value_loss(&values, &old_values, &returns, clip);
        let [policy_mean, value_mean, entropy_mean] =
            [&policy.loss, &value.loss, &entropy].map(|x| mask.mean(x));
        let mut loss = &value_mean * config.value_coef;
        if !warmup {
            loss = &policy_mean + loss;
        }
        if config.entropy_coef > 0. && !warmup {
            loss -= &entropy_mean * config.entropy_coef;
        }
        if loss.requires_grad() {
            (&loss * share).backward();
        }

        let _guard = tch::no_grad_guard();
        let difference = &log_probs - &old;
        let k3 = difference.expm1() - &difference;
        let mean = |x: &Tensor| mask.mean(&x.detach());
        let mut numbers = vec![
            policy_mean,
            value_mean,
            entropy_mean,
            mean(&(difference.square() * 0.5)),
            mean(&-&difference),
            mean(&policy.clipped),
            mean(&policy.ratio),
            mean(&values),
            mean(&(&values - &returns).square()),
            mean(&value.clipped),
            loss,
            mean(&k3),
        ];
        if self.is_trl() {
            numbers.extend(batch_statistics(rollout, advantages, rows).unbind(0));
        }
        let numbers: Vec<Tensor> =
            numbers.iter().map(|x| x.detach().to_kind(Kind::Float)).collect();
        // One copy from the device for all of them.
        let numbers = host(&Tensor::stack(&numbers, 0));
        progress.tokens.push([policy.ratio, gains]);
        progress.masks.push(mask);
        let mut unit = Unit::default();
        unit.means.copy_from_slice(&numbers[..MEANS.len()]);
        (unit.total, unit.k3) = (numbers[MEANS.len()], numbers[MEANS.len() + 1]);
        if self.is_trl() {
            unit.batch.copy_from_slice(&numbers[MEANS.len() + 2..]);
        }
        Ok(unit)
    }

    /// Adds the gradient of the pre-training mix, and returns its weighted loss.
    fn pretraining_pass(&mut self, progress: &mut Progress) -> Result<Option<f64>, PpoError> {
        let (Some(mix), false) = (self.config.pretraining, self.pretraining.is_empty()) else {
            return Ok(None);
        };
        if self.step < self.config.value_warmup_steps {
            return Ok(None);
        }
        // Draws without replacement until the data are used up, then again in another order.
        let drawn = progress.pretraining.len() as u64;
        let first = (self.step * self.config.updates_per_step() + drawn) * mix.rows as u64;
        let n = self.pretraining.len();
        let mut order = (u64::MAX, Vec::new());
        let rows: Vec<&SftRow> = (first..first + mix.rows as u64)
            .map(|at| {
                let round = at / n as u64;
                if order.0 != round {
                    let seed = self.config.seed.derive("pretraining", round);
                    order = (round, permutation(n, seed));
                }
                &self.pretraining[order.1[usize::try_from(at % n as u64).expect("below n")]]
            })
            .collect();
        let tokens: usize = rows.iter().map(|row| row.learned_tokens()).sum();
        let loss = sft_loss(&self.policy, &rows, self.training_forward())?;
        let loss = loss * (mix.coef / tokens as f64);
        loss.backward();
        let loss = host(&loss.detach())[0];
        progress.pretraining.push(loss);
        Ok(Some(loss))
    }

    fn drop_gradients(&self) -> Result<(), PpoError> {
        let parameters: Vec<&Tensor> = self.optimizer.parameters().map(|(_, t)| t).collect();
        Ok(rlaif_torch::drop_grads(&parameters)?)
    }

    /// Fills the gradients there are with zeros: what TRL's `loss * 0.0` comes to.
    fn zero_gradients(&self) {
        for (_, tensor) in self.optimizer.parameters() {
            let mut grad = tensor.grad();
            if grad.defined() {
                let _ = grad.zero_();
            }
        }
    }

    /// The optimizer's step, unless the policy has gone too far.
    fn make_step(&mut self, progress: &mut Progress) -> Result<Next, PpoError> {
        let config = &self.config;
        let Some(last) = progress.units.last() else { return Ok(Next::Continue) };
        if last.means[stats::RATIO] > config.ratio_threshold {
            progress.skipped += 1;
            if self.is_trl() {
                let unit = progress.units.last_mut().expect("there is one");
                unit.means[stats::POLICY] = 0.;
                unit.means[stats::VALUE] = 0.;
                unit.total = 0.;
                self.zero_gradients();
                let report = self.optimizer.step()?;
                progress.learning_rate = report.lr;
            }
            self.drop_gradients()?;
            return Ok(Next::Continue);
        }
        if !self.is_trl()
            && let Some(target) = config.target_kl
            && last.k3 > 1.5 * target
        {
            self.drop_gradients()?;
            return Ok(Next::Stop);
        }
        let report = self.optimizer.step()?;
        progress.learning_rate = report.lr;
        progress.grad_norms.push(report.grad_norm);
        let not_finite = usize::from(report.skipped.is_some());
        progress.skipped += not_finite;
        progress.not_finite += not_finite;
        Ok(Next::Continue)
    }
}
