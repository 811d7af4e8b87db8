//! Stage 3 of a step: epochs of minibatches over a rollout.

use std::time::Instant;

use rlaif_core::stats::mean_std;
use rlaif_lm::{Mask, Policy, RouterLoss, policy_log_probs};
use rlaif_rl::{
    Average, PolicyObjective, PolicyTokens, RlError, Stats, host, pick, real, rollout_statistics,
};
use rlaif_torch::dist::World;
use rlaif_train::Optimizer;
use tch::{Kind, Tensor, no_grad};

use crate::{
    algorithm::{TokenWeights, Weighted},
    config::ReinforceConfig,
    experience::{Ages, Experience},
};

/// Progress of an update.
#[derive(Debug, Default)]
struct Progress {
    /// Numbers of each optimizer step.
    steps: Vec<Numbers<f64>>,
    ratios: Vec<f64>,
    grad_norms: Vec<f64>,
    not_finite: usize,
    learning_rate: f64,
}

/// The name of the loss of routers, which models with experts have.
const ROUTERS: &str = "router_aux_loss";

/// Metrics of an optimizer step, summed over its passes. [`Tensor`]s while on the device.
#[derive(Debug, Clone, Copy, Default)]
struct Numbers<T> {
    total: T,
    policy: T,
    likelihood: T,
    kl: T,
    entropy: T,
    ratio: T,
    clipped: T,
    approx_kl: T,
    routers: T,
}

impl<T> Numbers<T> {
    /// Converts each number; `f` also gets its name among the metrics.
    fn map<U>(self, mut f: impl FnMut(&'static str, T) -> U) -> Numbers<U> {
        Numbers {
            total: f("ppo/loss/total", self.total),
            policy: f("ppo/loss/policy", self.policy),
            likelihood: f("ppo/loss/likelihood", self.likelihood),
            kl: f("ppo/loss/kl", self.kl),
            entropy: f("ppo/policy/entropy", self.entropy),
            ratio: f("ppo/policy/ratio", self.ratio),
            clipped: f("ppo/policy/clipfrac", self.clipped),
            approx_kl: f("ppo/policy/approxkl", self.approx_kl),
            routers: f(ROUTERS, self.routers),
        }
    }

    /// The numbers, in the order of the fields.
    fn values(self) -> Vec<T> {
        let mut all = Vec::new();
        self.map(|_, number| all.push(number));
        all
    }

    /// Exchanges the numbers for others in the order of [`Self::values`].
    fn exchanged<U>(self, values: Vec<U>) -> Numbers<U> {
        let mut values = values.into_iter();
        self.map(|_, _| values.next().expect("a value for each number"))
    }
}

impl Numbers<f64> {
    fn plus(self, other: Self) -> Self {
        let sums = self.values().into_iter().zip(other.values()).map(|(a, b)| a + b).collect();
        self.exchanged(sums)
    }

    /// The sums over all ranks.
    fn summed(self, world: &World) -> Result<Self, RlError> {
        let mut all = self.values();
        world.sum(&mut all)?;
        Ok(self.exchanged(all))
    }
}

impl Numbers<Tensor> {
    /// Moves the numbers to the host, in one copy.
    fn on_host(self) -> Numbers<f64> {
        let numbers = self.map(|_, x| x.detach().to_kind(Kind::Double)).values();
        Numbers::<()>::default().exchanged(host(&Tensor::stack(&numbers, 0)))
    }
}

/// A component in one optimizer step: its weights, and its count over the whole step.
struct Share<'a> {
    of: &'a Weighted,
    count: f64,
}

impl<'a> Share<'a> {
    /// `None` if the component is absent, or no token of these rows counts.
    fn of(component: Option<&'a Weighted>, average: Average, rows: &[usize]) -> Option<Self> {
        let of = component?;
        let mask = rows_of_mask(&of.mask, rows);
        let count = host(&average.count(&mask))[0];
        (count > 0.).then_some(Self { of, count })
    }

    /// The contribution of a pass to the component's mean.
    fn loss(&self, average: Average, x: &Tensor, mask: &Mask) -> Tensor {
        average.sum(x, mask) / self.count
    }

    fn part(&self, rows: &[usize], width: usize) -> (Tensor, Mask) {
        let mask = Mask::new(pick(self.of.mask.tensor(), rows, width));
        (pick(&self.of.weights, rows, width), mask)
    }
}

fn rows_of_mask(mask: &Mask, rows: &[usize]) -> Mask {
    let width = usize::try_from(mask.tensor().size()[1]).unwrap_or(0);
    Mask::new(pick(mask.tensor(), rows, width))
}

/// The components of one optimizer step.
struct Shares<'a> {
    policy_gradient: Option<Share<'a>>,
    likelihood: Option<Share<'a>>,
    kl: Option<Share<'a>>,
    /// Number of tokens that count, for the means of metrics.
    tokens: f64,
}

/// An update that was made.
pub(crate) struct Learned {
    progress: Progress,
    pub(crate) seconds: f64,
}

/// The parts of a trainer that an update changes, and those that it reads. They may be sent to another thread.
pub(crate) struct Learner<'a, P> {
    pub(crate) policy: &'a mut P,
    pub(crate) optimizer: &'a mut Optimizer,
    pub(crate) config: &'a ReinforceConfig,
    pub(crate) objective: PolicyObjective,
    pub(crate) step: u64,
}

impl Learned {
    /// Statistics of the update.
    pub(crate) fn statistics(
        &self,
        experience: &Experience,
        objective: &PolicyObjective,
        config: &ReinforceConfig,
    ) -> Stats {
        let progress = &self.progress;
        let mut stats = no_grad(|| statistics(experience, objective, progress));
        if config.router_aux_loss_coef != 0. {
            let of_steps: Vec<f64> = progress.steps.iter().map(|step| step.routers).collect();
            stats.push(ROUTERS, mean_std(&of_steps).0);
        }
        stats
    }
}

impl<P: Policy> Learner<'_, P> {
    /// Trains on a rollout.
    pub(crate) fn learn(
        &mut self,
        experience: &Experience,
        weights: &TokenWeights,
    ) -> Result<Learned, RlError> {
        let rollout = &experience.rollout;
        rollout.check(self.step, rollout.len())?;
        rollout.check_orders()?;
        let TokenWeights { policy_gradient, likelihood, kl } = weights;
        for (what, component) in [
            ("weights of the policy gradient", policy_gradient),
            ("weights of the likelihood", likelihood),
            ("weights of the KL", kl),
        ] {
            if let Some(Weighted { weights, mask }) = component {
                rollout.check_shape(what, weights)?;
                rollout.check_shape(what, mask.tensor())?;
            }
        }
        let start = Instant::now();
        let mut progress = Progress::default();
        let (dropout, seed, step) = (self.config.dropout, self.config.seed, self.step);
        dropout.seeded(seed, step, || {
            let mut minibatches = experience.schedule.iter().flatten();
            minibatches
                .try_for_each(|passes| self.minibatch(experience, weights, passes, &mut progress))
        })??;
        progress.ratios = self.optimizer.world().gather_numbers(progress.ratios)?;
        Ok(Learned { progress, seconds: start.elapsed().as_secs_f64() })
    }

    fn minibatch(
        &mut self,
        experience: &Experience,
        weights: &TokenWeights,
        passes: &[Vec<usize>],
        progress: &mut Progress,
    ) -> Result<(), RlError> {
        let rollout = &experience.rollout;
        let objective = self.objective;
        let rows = passes.concat();
        let of = |component| Share::of(component, objective.average, &rows);
        let shares = Shares {
            policy_gradient: of(weights.policy_gradient.as_ref()),
            likelihood: of(weights.likelihood.as_ref()),
            kl: of(weights.kl.as_ref()),
            tokens: rollout.tokens_of(&rows) as f64,
        };
        if shares.tokens == 0. {
            return Ok(());
        }
        let world = self.optimizer.world().clone();
        let mut numbers = Numbers::default();
        for rows in passes {
            let rows = &rows[world.share(rows.len())];
            if rollout.tokens_of(rows) > 0 {
                numbers = numbers.plus(self.pass(experience, &shares, rows, progress)?);
            }
        }
        progress.steps.push(numbers.summed(&world)?);
        let report = self.optimizer.step()?;
        progress.learning_rate = report.lr;
        progress.grad_norms.push(report.grad_norm);
        progress.not_finite += usize::from(report.skipped.is_some());
        Ok(())
    }

    /// Forward and backward pass over some rows.
    fn pass(
        &self,
        experience: &Experience,
        shares: &Shares<'_>,
        rows: &[usize],
        progress: &mut Progress,
    ) -> Result<Numbers<f64>, RlError> {
        let rollout = &experience.rollout;
        let (x, y) = (rollout.prompts.select(rows)?, rollout.responses.select(rows)?);
        let width = y.width();
        let of = |tensor: &Tensor| pick(tensor, rows, width);
        let temperature = self.config.generation.sampling.temperature();
        let coefficient = self.config.router_aux_loss_coef;
        let routers = RouterLoss::new(coefficient);
        let kept = experience.pass.take().filter(|kept| kept.rows == rows);
        let found = match kept {
            Some(kept) => kept.found,
            None => {
                let forward = routers.collecting(self.config.training_forward());
                policy_log_probs(&*self.policy, &x, &y, forward, temperature)?
            }
        };
        let mask = Mask::new(of(rollout.mask.tensor()));
        let log_probs = &found.log_probs;
        let (old, reference) = (of(&rollout.log_probs), of(&rollout.ref_log_probs));
        let sampler = rollout.sampler_log_probs.as_ref().map(of);
        let zero = || Tensor::zeros([], (log_probs.kind(), log_probs.device()));

        let advantages = match &shares.policy_gradient {
            Some(share) => share.part(rows, width),
            None => (log_probs.zeros_like(), mask.clone()),
        };
        let losses = self.objective.losses(PolicyTokens {
            log_probs,
            old: &old,
            sampler: sampler.as_ref(),
            reference: Some(&reference),
            advantages: &advantages.0,
            mask: &advantages.1,
        });
        let average = self.objective.average;
        let policy = match &shares.policy_gradient {
            Some(share) => share.loss(average, &losses.policy, &advantages.1),
            None => zero(),
        };
        let likelihood = match &shares.likelihood {
            Some(share) => {
                let (weights, mask) = share.part(rows, width);
                share.loss(average, &(-weights * log_probs), &mask)
            }
            None => zero(),
        };
        let kl = match (&shares.kl, &losses.kl) {
            (Some(share), Some(kl)) => {
                let (weights, mask) = share.part(rows, width);
                share.loss(average, &(weights * kl), &mask)
            }
            _ => zero(),
        };
        let mut total = &policy + &likelihood + &kl;
        let mut of_routers = zero();
        if let Some(loss) = routers.of_pass()? {
            of_routers = loss * (rollout.tokens_of(rows) as f64 / shares.tokens);
            total += &of_routers * coefficient;
        }
        if total.requires_grad() {
            total.backward();
        }

        let _guard = tch::no_grad_guard();
        let mean = |x: &Tensor| mask.sum(&x.detach()) / shares.tokens;
        let difference = mask.apply(&(log_probs - &old));
        let numbers = Numbers {
            entropy: mean(&found.entropy),
            ratio: mean(&losses.ratio),
            clipped: mean(&losses.clipped),
            approx_kl: mean(&(difference.square() * 0.5)),
            total,
            policy,
            likelihood,
            kl,
            routers: of_routers,
        };
        progress.ratios.extend(real(&losses.ratio, &mask));
        Ok(numbers.on_host())
    }
}

fn statistics(experience: &Experience, objective: &PolicyObjective, progress: &Progress) -> Stats {
    let mut stats = rollout_statistics(&experience.rollout, objective.kl.coef());
    let steps: Vec<Vec<f64>> = progress.steps.iter().map(|numbers| numbers.values()).collect();
    let names = Numbers::<()>::default().map(|name, ()| name).values();
    for (at, name) in names.into_iter().enumerate().filter(|(_, name)| *name != ROUTERS) {
        let of_steps: Vec<f64> = steps.iter().map(|numbers| numbers[at]).collect();
        stats.push(name, mean_std(&of_steps).0);
    }
    let largest = progress.ratios.iter().copied().fold(0., f64::max);
    stats.push("ppo/policy/ratio_max", largest);
    stats.distributions.push(("ppo/policy/ratio", progress.ratios.clone()));
    stats.push("ppo/learning_rate", progress.learning_rate);
    stats.push("ppo/grad_norm", mean_std(&progress.grad_norms).0);
    stats.push("ppo/updates", progress.grad_norms.len() as f64);
    stats.push("ppo/updates_skipped", progress.not_finite as f64);
    stats.push("ppo/updates_not_finite", progress.not_finite as f64);
    stats.push("groups/equal", experience.equal_groups());
    count_groups(&mut stats, experience.left_out, experience.pass_rate);
    let rollout = &experience.rollout;
    if experience.ages == Ages::Recorded {
        let ages = rollout.versions.iter().map(|&version| rollout.step.saturating_sub(version));
        let ages: Vec<f64> = ages.map(|age| age as f64).collect();
        stats.push("rollout/staleness_mean", mean_std(&ages).0);
        stats.push("rollout/staleness_max", rollout.staleness() as f64);
        stats.push("rollout/replayed_groups", experience.replayed as f64);
    }
    if rollout.sampler_log_probs.is_some() {
        stats.push("objective/mismatch_kl", experience.mismatch.kl);
        stats.push("objective/mismatch_max", experience.mismatch.largest);
    }
    stats
}

/// Adds the statistics of sampled groups.
pub(crate) fn count_groups(stats: &mut Stats, left_out: usize, pass_rate: Option<f64>) {
    stats.push("groups/left_out", left_out as f64);
    if let Some(pass_rate) = pass_rate {
        stats.push("curriculum/pass_rate", pass_rate);
    }
}
