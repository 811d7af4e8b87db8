//! The third part of a step: epochs of minibatches over a rollout.

use std::time::Instant;

use rlaif_core::stats::mean_std;
use rlaif_lm::{Policy, PolicyLogProbs, RouterLoss, policy_log_probs};
use rlaif_rl::{Average, Rollout, RolloutPart, Surrogate, host, permutation, rollout_statistics};
use rlaif_train::{Advantages, SftRow, sft_loss};
use tch::{Kind, Tensor, no_grad};

use crate::{
    PpoStats,
    error::PpoError,
    loss::value_loss,
    progress::{BatchNumbers, Means, Pass, UpdateProgress},
    stats,
    trainer::PpoTrainer,
};

/// Averaging of token losses within a minibatch.
const AVERAGE: Average = Average::Tokens;

/// The continuation of an update after a minibatch.
enum Next {
    Continue,
    Stop,
}

impl<P: Policy> PpoTrainer<P> {
    /// Trains on a rollout, and advances to the next step.
    ///
    /// # Errors
    /// [`PpoError::StaleRollout`], [`PpoError::Rows`], [`PpoError::Shape`], [`PpoError::Order`] for
    /// a rollout or advantages of another step or another size; [`PpoError::Lm`] and
    /// [`PpoError::Train`] if a model or the optimizer fails.
    pub fn update(
        &mut self,
        rollout: &Rollout,
        advantages: &Advantages,
    ) -> Result<PpoStats, PpoError> {
        rollout.check(self.step, self.config.batch_size)?;
        rollout.check_shape("advantages", &advantages.advantages)?;
        rollout.check_shape("returns", &advantages.returns)?;
        rollout.check_orders()?;
        if rollout.values.is_none() {
            return Err(PpoError::NoValues);
        }
        let start = Instant::now();
        let mut progress = UpdateProgress::default();
        let (dropout, seed, step) = (self.config.dropout, self.config.seed, self.step);
        let epochs = || self.epochs(rollout, advantages, &mut progress);
        progress.stopped_early = dropout.seeded(seed, step, epochs)??;
        let optimize_s = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let mut stats = no_grad(|| self.statistics(rollout, &progress))?;
        self.controller.observe(stats.get("objective/kl"), rollout.len());
        self.step += 1;
        stats.step = self.step;
        let mut seconds = advantages.seconds.clone();
        seconds.push(("optimize_step", optimize_s));
        seconds.push(("calc_stats", start.elapsed().as_secs_f64()));
        stats.measure(rollout, &seconds);
        Ok(stats)
    }

    /// Epochs of minibatches; `true` if they ended early.
    fn epochs(
        &mut self,
        rollout: &Rollout,
        advantages: &Advantages,
        progress: &mut UpdateProgress,
    ) -> Result<bool, PpoError> {
        for order in &rollout.orders {
            for minibatch in order.chunks(self.config.minibatch_size) {
                if let Next::Stop = self.minibatch(rollout, advantages, minibatch, progress)? {
                    return Ok(true);
                }
            }
            if self.accounting().is_far_after_epoch(&progress.units, self.config.target_kl) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn statistics(
        &self,
        rollout: &Rollout,
        progress: &UpdateProgress,
    ) -> Result<PpoStats, PpoError> {
        let mut stats = rollout_statistics(rollout, self.controller.coef());
        self.accounting().count_start(&mut stats, self.policy.spec());
        stats::of_update(&mut stats, progress, self.optimizer.world())?;
        if self.config.router_aux_loss_coef != 0. {
            let of_units: Vec<f64> = progress.units.iter().map(|unit| unit.means.routers).collect();
            stats.push("router_aux_loss", mean_std(&of_units).0);
        }
        Ok(stats)
    }

    fn minibatch(
        &mut self,
        rollout: &Rollout,
        advantages: &Advantages,
        minibatch: &[usize],
        progress: &mut UpdateProgress,
    ) -> Result<Next, PpoError> {
        let whole = AVERAGE.weight(rollout, minibatch);
        if whole == 0. {
            return Ok(Next::Continue);
        }
        let accounting = self.accounting();
        let mut passes = self.split(minibatch, |row| rollout.responses.rows()[row].len());
        passes.retain(|rows| AVERAGE.weight(rollout, rows) > 0.);
        let world = self.optimizer.world().clone();
        let mut counted = Vec::with_capacity(passes.len());
        for rows in &passes {
            let rows = &rows[world.share(rows.len())];
            let weight = AVERAGE.weight(rollout, rows);
            if weight == 0. {
                continue;
            }
            let share = accounting.share(weight, whole, passes.len());
            let means = self.pass(rollout, advantages, rows, share, progress)?;
            counted.push(Pass { rows, means, share });
        }
        let values = rollout.values.as_ref().ok_or(PpoError::NoValues)?;
        let mut units = accounting
            .units(minibatch, &counted, |rows| BatchNumbers::of(rollout, values, advantages, rows));
        for unit in &mut units {
            unit.means = unit.means.summed(&world)?;
        }
        if let Some(loss) = self.pretraining_pass(progress)? {
            for unit in &mut units {
                unit.means.total += loss;
            }
        }
        progress.units.extend(units);
        self.make_step(progress)
    }

    /// Forward and backward pass over some rows; their loss has the weight `share` in the
    /// minibatch.
    fn pass(
        &self,
        rollout: &Rollout,
        advantages: &Advantages,
        rows: &[usize],
        share: f64,
        progress: &mut UpdateProgress,
    ) -> Result<Means<f64>, PpoError> {
        let config = &self.config;
        let warmup = self.step < config.value_warmup_steps;
        let part = rollout.part(advantages, rows)?;
        let RolloutPart {
            prompts: x, responses: y, mask, log_probs: old, advantages: gains, ..
        } = part;
        let (old_values, returns) = (part.values.ok_or(PpoError::NoValues)?, part.returns);

        let routers = RouterLoss::new(config.router_aux_loss_coef);
        let forward = routers.collecting(self.training_forward());
        let temperature = config.generation.sampling.temperature();
        let ask = || policy_log_probs(&self.policy, &x, &y, forward, temperature);
        // During the warm-up of the value head, no gradient flows into the policy.
        let PolicyLogProbs { hidden, log_probs, entropy, .. } =
            if warmup { no_grad(ask)? } else { ask()? };
        let values = self.critic.0.values(&x, &y, &hidden)?;
        let (log_probs, values) = (mask.apply(&log_probs), mask.apply(&values));

        let surrogate =
            Surrogate::Clipped { low: config.clip, high: config.clip, dual_clip: config.dual_clip };
        let policy = surrogate.loss(&log_probs, &old, &gains);
        let clip = config.value_clip.is_finite().then_some(config.value_clip);
        let value = value_loss(&values, &old_values, &returns, clip);
        let [policy_loss, value_loss, entropy] =
            [&policy.loss, &value.loss, &entropy].map(|x| AVERAGE.of(x, &mask));
        let mut loss = &value_loss * config.value_coef;
        if !warmup {
            loss = &policy_loss + loss;
        }
        if config.entropy_coef > 0. && !warmup {
            loss -= &entropy * config.entropy_coef;
        }
        let of_routers = routers.of_pass()?;
        if let (Some(of_routers), false) = (&of_routers, warmup) {
            loss += of_routers * config.router_aux_loss_coef;
        }
        if loss.requires_grad() {
            (&loss * share).backward();
        }

        let _guard = tch::no_grad_guard();
        let difference = &log_probs - &old;
        let k3 = difference.expm1() - &difference;
        let mean = |x: &Tensor| mask.mean(&x.detach());
        let means = Means {
            policy_loss,
            value_loss,
            entropy,
            approx_kl: mean(&(difference.square() * 0.5)),
            policy_kl: mean(&-&difference),
            policy_clipped: mean(&policy.clipped),
            ratio: mean(&policy.ratio),
            predicted: mean(&values),
            error: mean(&(&values - &returns).square()),
            value_clipped: mean(&value.clipped),
            total: loss,
            k3: mean(&k3),
            routers: of_routers
                .unwrap_or_else(|| Tensor::zeros([], (Kind::Float, difference.device()))),
        };
        progress.tokens.push([policy.ratio, gains]);
        progress.masks.push(mask);
        Ok(means.on_host())
    }

    /// Adds the gradient of the pre-training mix, and returns its weighted loss.
    fn pretraining_pass(&self, progress: &mut UpdateProgress) -> Result<Option<f64>, PpoError> {
        let (Some(mix), false) = (self.config.pretraining, self.pretraining.is_empty()) else {
            return Ok(None);
        };
        if self.step < self.config.value_warmup_steps {
            return Ok(None);
        }
        // Draws without replacement until all data are used, then again in another order.
        let drawn = progress.pretraining.len() as u64;
        let first = (self.step * self.config.updates_per_step() + drawn) * mix.batch_size as u64;
        let n = self.pretraining.len();
        let mut order = (u64::MAX, Vec::new());
        let rows: Vec<&SftRow> = (first..first + mix.batch_size as u64)
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
        let world = self.optimizer.world();
        let mut sum = [0.];
        let own = &rows[world.share(rows.len())];
        if !own.is_empty() {
            let loss = sft_loss(&self.policy, own, self.training_forward())?;
            let loss = loss * (mix.coef / tokens as f64);
            loss.backward();
            sum[0] = host(&loss.detach())[0];
        }
        world.sum(&mut sum)?;
        let [loss] = sum;
        progress.pretraining.push(loss);
        Ok(Some(loss))
    }

    fn drop_gradients(&self) -> Result<(), PpoError> {
        let parameters: Vec<&Tensor> = self.optimizer.parameters().map(|(_, t)| t).collect();
        Ok(rlaif_torch::drop_grads(&parameters)?)
    }

    /// Makes the optimizer step, unless the policy has gone too far.
    fn make_step(&mut self, progress: &mut UpdateProgress) -> Result<Next, PpoError> {
        let config = &self.config;
        let Some(last) = progress.units.last() else { return Ok(Next::Continue) };
        let (far, target) = (last.means.ratio > config.ratio_threshold, config.target_kl);
        if far {
            self.accounting().leave_out(&mut self.optimizer, progress)?;
            self.drop_gradients()?;
            return Ok(Next::Continue);
        }
        if self.accounting().is_far(last, target) {
            self.drop_gradients()?;
            return Ok(Next::Stop);
        }
        let report = self.optimizer.step()?;
        progress.learning_rate = Some(report.lr);
        progress.grad_norms.push(report.grad_norm);
        let not_finite = usize::from(report.skipped.is_some());
        progress.skipped += not_finite;
        progress.not_finite += not_finite;
        Ok(Next::Continue)
    }
}
