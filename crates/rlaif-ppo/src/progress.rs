//! What an update comes to while it goes on.

use rlaif_lm::Mask;
use rlaif_rl::{Rollout, host, pick};
use rlaif_train::Advantages;
use tch::{Kind, Tensor};

/// The course of an update, from which its statistics are made.
#[derive(Debug, Default)]
pub(crate) struct UpdateProgress {
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

/// Numbers of one minibatch (in compatibility mode of one micro-batch): means over its tokens.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Unit {
    pub(crate) policy_loss: f64,
    pub(crate) value_loss: f64,
    pub(crate) entropy: f64,
    pub(crate) approx_kl: f64,
    pub(crate) policy_kl: f64,
    pub(crate) policy_clipped: f64,
    pub(crate) ratio: f64,
    pub(crate) predicted: f64,
    pub(crate) error: f64,
    pub(crate) value_clipped: f64,
    /// The whole loss that was minimised.
    pub(crate) total: f64,
    /// KL from the sampling policy, by k3: never negative.
    pub(crate) k3: f64,
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

/// The numbers of a [`Unit`] where they are computed.
pub(crate) struct UnitTensors {
    pub(crate) policy_loss: Tensor,
    pub(crate) value_loss: Tensor,
    pub(crate) entropy: Tensor,
    pub(crate) approx_kl: Tensor,
    pub(crate) policy_kl: Tensor,
    pub(crate) policy_clipped: Tensor,
    pub(crate) ratio: Tensor,
    pub(crate) predicted: Tensor,
    pub(crate) error: Tensor,
    pub(crate) value_clipped: Tensor,
    pub(crate) total: Tensor,
    pub(crate) k3: Tensor,
    /// Those of [`batch_numbers`], where they are wanted of each pass.
    pub(crate) batch: Option<[Tensor; 5]>,
}

impl UnitTensors {
    /// The numbers on the host, in one copy from the device.
    pub(crate) fn into_unit(self) -> Unit {
        let own = [
            self.policy_loss,
            self.value_loss,
            self.entropy,
            self.approx_kl,
            self.policy_kl,
            self.policy_clipped,
            self.ratio,
            self.predicted,
            self.error,
            self.value_clipped,
            self.total,
            self.k3,
        ];
        let all: Vec<Tensor> = own
            .iter()
            .chain(self.batch.iter().flatten())
            .map(|x| x.detach().to_kind(Kind::Float))
            .collect();
        let numbers = host(&Tensor::stack(&all, 0));
        let (own, batch) = numbers.split_first_chunk().expect("as many as were stacked");
        let [
            policy_loss,
            value_loss,
            entropy,
            approx_kl,
            policy_kl,
            policy_clipped,
            ratio,
            predicted,
            error,
            value_clipped,
            total,
            k3,
        ] = *own;
        Unit {
            policy_loss,
            value_loss,
            entropy,
            approx_kl,
            policy_kl,
            policy_clipped,
            ratio,
            predicted,
            error,
            value_clipped,
            total,
            k3,
            batch: BatchNumbers::of(batch),
        }
    }
}

impl BatchNumbers {
    /// Of the numbers of [`batch_numbers`]; zeros without them.
    pub(crate) fn of(numbers: &[f64]) -> Self {
        let [advantages, returns, returns_variance, values, values_variance] =
            numbers.first_chunk().copied().unwrap_or_default();
        Self { advantages, returns, returns_variance, values, values_variance }
    }
}

/// Mean of the advantages; mean and variance of the returns and of the old values, over the tokens
/// of some rows.
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
    /// The numbers by name: TRL 0.11's where it has the number.
    pub(crate) fn named(&self) -> [(&'static str, f64); 16] {
        [
            ("ppo/loss/policy", self.policy_loss),
            ("ppo/loss/value", self.value_loss),
            ("ppo/policy/entropy", self.entropy),
            ("ppo/policy/approxkl", self.approx_kl),
            ("ppo/policy/policykl", self.policy_kl),
            ("ppo/policy/clipfrac", self.policy_clipped),
            ("ppo/policy/ratio", self.ratio),
            ("ppo/val/vpred", self.predicted),
            ("ppo/val/error", self.error),
            ("ppo/val/clipfrac", self.value_clipped),
            ("ppo/loss/total", self.total),
            ("ppo/policy/advantages_mean", self.batch.advantages),
            ("ppo/returns/mean", self.batch.returns),
            ("ppo/returns/var", self.batch.returns_variance),
            ("ppo/val/mean", self.batch.values),
            ("ppo/val/var", self.batch.values_variance),
        ]
    }

    /// Adds another's numbers, by its share of the whole; those of the batch are not sums.
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
    }
}
