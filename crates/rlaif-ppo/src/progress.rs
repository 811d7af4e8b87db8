//! Statistics collected during an update.

use rlaif_lm::Mask;
use rlaif_rl::{Rollout, host, pick};
use rlaif_torch::dist::World;
use rlaif_train::Advantages;
use tch::{Kind, Tensor};

use crate::error::PpoError;

/// The course of an update, from which its statistics are computed.
#[derive(Debug, Default)]
pub(crate) struct UpdateProgress {
    pub(crate) units: Vec<Unit>,
    /// Ratios and advantages of all trained tokens.
    pub(crate) tokens: Vec<[Tensor; 2]>,
    /// The masks of these tokens.
    pub(crate) masks: Vec<Mask>,
    /// Optimizer steps skipped because of their ratio, or by the optimizer.
    pub(crate) skipped: usize,
    /// Steps skipped by the optimizer, because of gradients with NaN or infinity.
    pub(crate) not_finite: usize,
    pub(crate) grad_norms: Vec<f64>,
    /// The learning rate of the last optimizer step.
    pub(crate) learning_rate: Option<f64>,
    pub(crate) pretraining: Vec<f64>,
    pub(crate) stopped_early: bool,
}

/// Numbers of one minibatch (in compatibility mode, of one microbatch): means over its tokens.
/// [`Tensor`]s while on the device.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Means<T> {
    pub(crate) policy_loss: T,
    pub(crate) value_loss: T,
    pub(crate) entropy: T,
    pub(crate) approx_kl: T,
    pub(crate) policy_kl: T,
    pub(crate) policy_clipped: T,
    pub(crate) ratio: T,
    pub(crate) predicted: T,
    pub(crate) error: T,
    pub(crate) value_clipped: T,
    /// The whole loss that was minimised.
    pub(crate) total: T,
    /// KL from the sampling policy, by k3: never negative.
    pub(crate) k3: T,
    /// The loss of routers without its coefficient; 0 if it is disabled.
    pub(crate) routers: T,
}

impl<T> Means<T> {
    /// Converts each number.
    fn map<U>(self, mut f: impl FnMut(T) -> U) -> Means<U> {
        Means {
            policy_loss: f(self.policy_loss),
            value_loss: f(self.value_loss),
            entropy: f(self.entropy),
            approx_kl: f(self.approx_kl),
            policy_kl: f(self.policy_kl),
            policy_clipped: f(self.policy_clipped),
            ratio: f(self.ratio),
            predicted: f(self.predicted),
            error: f(self.error),
            value_clipped: f(self.value_clipped),
            total: f(self.total),
            k3: f(self.k3),
            routers: f(self.routers),
        }
    }
}

impl Means<f64> {
    /// The sums over all ranks.
    pub(crate) fn summed(self, world: &World) -> Result<Self, PpoError> {
        let mut all = Vec::new();
        let places = self.map(|number| {
            all.push(number);
            all.len() - 1
        });
        world.sum(&mut all)?;
        Ok(places.map(|at| all[at]))
    }
}

impl Means<Tensor> {
    /// Moves the numbers to the host, in one copy.
    pub(crate) fn on_host(self) -> Means<f64> {
        let mut all = Vec::new();
        let places = self.map(|x| {
            all.push(x.detach().to_kind(Kind::Float));
            all.len() - 1
        });
        let numbers = host(&Tensor::stack(&all, 0));
        places.map(|at| numbers[at])
    }
}

/// One forward and backward pass: its rows, their means, and the weight of their loss.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    pub(crate) rows: &'a [usize],
    pub(crate) means: Means<f64>,
    pub(crate) share: f64,
}

/// Numbers of one minibatch on the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit {
    pub(crate) means: Means<f64>,
    pub(crate) batch: BatchNumbers,
}

/// Numbers of a minibatch that do not depend on the update: means and variances over the tokens of
/// its rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchNumbers {
    pub(crate) advantages: f64,
    pub(crate) returns: f64,
    pub(crate) returns_variance: f64,
    pub(crate) values: f64,
    pub(crate) values_variance: f64,
}

impl BatchNumbers {
    /// The numbers of some rows; `values` are those of the rollout.
    pub(crate) fn of(
        rollout: &Rollout,
        values: &Tensor,
        advantages: &Advantages,
        rows: &[usize],
    ) -> Self {
        let width = rollout.responses.width();
        let mask = Mask::new(pick(rollout.mask.tensor(), rows, width));
        let returns = pick(&advantages.returns, rows, width);
        let values = pick(values, rows, width);
        let numbers = [
            mask.mean(&pick(&advantages.advantages, rows, width)),
            mask.mean(&returns),
            mask.variance(&returns),
            mask.mean(&values),
            mask.variance(&values),
        ];
        let numbers = host(&Tensor::stack(&numbers, 0));
        Self {
            advantages: numbers[0],
            returns: numbers[1],
            returns_variance: numbers[2],
            values: numbers[3],
            values_variance: numbers[4],
        }
    }
}

/// A number of a [`Unit`].
pub(crate) type UnitNumber = fn(&Unit) -> f64;

/// The numbers of a [`Unit`] by name, TRL 0.11's name if it has the number.
pub(crate) const UNIT_NUMBERS: [(&str, UnitNumber); 16] = [
    ("ppo/loss/policy", |unit| unit.means.policy_loss),
    ("ppo/loss/value", |unit| unit.means.value_loss),
    ("ppo/policy/entropy", |unit| unit.means.entropy),
    ("ppo/policy/approxkl", |unit| unit.means.approx_kl),
    ("ppo/policy/policykl", |unit| unit.means.policy_kl),
    ("ppo/policy/clipfrac", |unit| unit.means.policy_clipped),
    ("ppo/policy/ratio", |unit| unit.means.ratio),
    ("ppo/val/vpred", |unit| unit.means.predicted),
    ("ppo/val/error", |unit| unit.means.error),
    ("ppo/val/clipfrac", |unit| unit.means.value_clipped),
    ("ppo/loss/total", |unit| unit.means.total),
    ("ppo/policy/advantages_mean", |unit| unit.batch.advantages),
    ("ppo/returns/mean", |unit| unit.batch.returns),
    ("ppo/returns/var", |unit| unit.batch.returns_variance),
    ("ppo/val/mean", |unit| unit.batch.values),
    ("ppo/val/var", |unit| unit.batch.values_variance),
];

impl Means<f64> {
    /// Adds the means of another pass, weighted by its share.
    pub(crate) fn add(&mut self, other: &Self, share: f64) {
        self.policy_loss += share * other.policy_loss;
        self.value_loss += share * other.value_loss;
        self.entropy += share * other.entropy;
        self.approx_kl += share * other.approx_kl;
        self.policy_kl += share * other.policy_kl;
        self.policy_clipped += share * other.policy_clipped;
        self.ratio += share * other.ratio;
        self.predicted += share * other.predicted;
        self.error += share * other.error;
        self.value_clipped += share * other.value_clipped;
        self.total += share * other.total;
        self.k3 += share * other.k3;
        self.routers += share * other.routers;
    }
}
