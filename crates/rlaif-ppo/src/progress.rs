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
    pub(crate) learning_rate: f64,
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

/// Numbers of one minibatch on the host.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Unit {
    pub(crate) means: Means<f64>,
    pub(crate) batch: BatchNumbers,
}

/// Numbers of a minibatch that do not depend on the update.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BatchNumbers {
    pub(crate) advantages: f64,
    pub(crate) returns: f64,
    pub(crate) returns_variance: f64,
    pub(crate) values: f64,
    pub(crate) values_variance: f64,
}

/// The numbers of a [`Unit`] on the device.
pub(crate) struct UnitTensors {
    pub(crate) means: Means<Tensor>,
    /// Results of [`batch_numbers`], if they are computed for each pass.
    pub(crate) batch: Option<[Tensor; 5]>,
}

impl UnitTensors {
    /// Moves the numbers to the host, in one copy.
    pub(crate) fn into_unit(self) -> Unit {
        let mut all = Vec::new();
        let places = self.means.map(|x| {
            all.push(x.detach().to_kind(Kind::Float));
            all.len() - 1
        });
        let own = all.len();
        all.extend(self.batch.iter().flatten().map(|x| x.detach().to_kind(Kind::Float)));
        let numbers = host(&Tensor::stack(&all, 0));
        Unit { means: places.map(|at| numbers[at]), batch: BatchNumbers::of(&numbers[own..]) }
    }
}

impl BatchNumbers {
    /// The numbers of [`batch_numbers`]; zeros without them.
    pub(crate) fn of(numbers: &[f64]) -> Self {
        let [advantages, returns, returns_variance, values, values_variance] =
            numbers.first_chunk().copied().unwrap_or_default();
        Self { advantages, returns, returns_variance, values, values_variance }
    }
}

/// Mean of the advantages, and mean and variance of the returns and of the old values, over the
/// tokens of some rows.
pub(crate) fn batch_numbers(
    rollout: &Rollout,
    values: &Tensor,
    advantages: &Advantages,
    rows: &[usize],
) -> [Tensor; 5] {
    let width = rollout.responses.width();
    let mask = Mask::new(pick(rollout.mask.tensor(), rows, width));
    let returns = pick(&advantages.returns, rows, width);
    let values = pick(values, rows, width);
    [
        mask.mean(&pick(&advantages.advantages, rows, width)),
        mask.mean(&returns),
        mask.variance(&returns),
        mask.mean(&values),
        mask.variance(&values),
    ]
}

impl Unit {
    /// The numbers by name, TRL 0.11's name if it has the number.
    pub(crate) fn named(&self) -> [(&'static str, f64); 16] {
        let Self { means, batch } = self;
        [
            ("ppo/loss/policy", means.policy_loss),
            ("ppo/loss/value", means.value_loss),
            ("ppo/policy/entropy", means.entropy),
            ("ppo/policy/approxkl", means.approx_kl),
            ("ppo/policy/policykl", means.policy_kl),
            ("ppo/policy/clipfrac", means.policy_clipped),
            ("ppo/policy/ratio", means.ratio),
            ("ppo/val/vpred", means.predicted),
            ("ppo/val/error", means.error),
            ("ppo/val/clipfrac", means.value_clipped),
            ("ppo/loss/total", means.total),
            ("ppo/policy/advantages_mean", batch.advantages),
            ("ppo/returns/mean", batch.returns),
            ("ppo/returns/var", batch.returns_variance),
            ("ppo/val/mean", batch.values),
            ("ppo/val/var", batch.values_variance),
        ]
    }

    /// Adds the numbers of another part, weighted by its share; numbers of the batch are not
    /// summed.
    pub(crate) fn add(&mut self, other: &Self, share: f64) {
        let (own, other) = (&mut self.means, &other.means);
        own.policy_loss += share * other.policy_loss;
        own.value_loss += share * other.value_loss;
        own.entropy += share * other.entropy;
        own.approx_kl += share * other.approx_kl;
        own.policy_kl += share * other.policy_kl;
        own.policy_clipped += share * other.policy_clipped;
        own.ratio += share * other.ratio;
        own.predicted += share * other.predicted;
        own.error += share * other.error;
        own.value_clipped += share * other.value_clipped;
        own.total += share * other.total;
        own.k3 += share * other.k3;
    }
}
