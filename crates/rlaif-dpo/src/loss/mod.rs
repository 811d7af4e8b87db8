//! The family of losses: their definitions, their inputs, and their combination into one objective.

mod divergence;
pub mod paired;
mod settings;
mod sums;
pub mod unpaired;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

pub use divergence::ReferenceDivergence;
pub use sums::{BatchScale, PairSums, ResponseSums, RunningMean};

/// Reduction of the log-probabilities of a response's tokens to one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// The mean over tokens.
    #[default]
    Averaged,
    /// The sum over tokens.
    Summed,
}

/// Definition of BCO's reward shift δ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RewardShift {
    /// The mean implicit reward of all responses of all batches so far, as in the paper.
    #[default]
    RunningMean,
    /// 0, as in TRL 1.
    None,
}

/// A loss of preference pairs. Each variant owns its parameters; the equations and their sources
/// are in [`paired`], one function each.
///
/// ```
/// use rlaif_dpo::PairLoss;
/// let loss: PairLoss = serde_json::from_str(r#"{"type": "sigmoid", "beta": 0.1}"#)?;
/// assert_eq!(loss, PairLoss::Sigmoid { beta: 0.1, label_smoothing: 0. });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum PairLoss {
    /// DPO; with label smoothing, conservative DPO. [`paired::sigmoid`].
    Sigmoid {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
        /// ε, the share of pairs that are labelled the wrong way round.
        #[serde(default)]
        label_smoothing: f64,
    },
    /// DPO with soft labels, derived from the pairs' margins: q = σ(scale · margin).
    /// [`paired::soft_sigmoid`].
    SoftSigmoid {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
        /// Factor of the margin: 1 if margins are differences of Bradley-Terry rewards.
        #[serde(default = "settings::one")]
        scale: f64,
    },
    /// DPO on length-normalised log-ratios (Lambert et al. 2024, Tülu 3,
    /// [arXiv:2411.15124](https://arxiv.org/abs/2411.15124)): [`paired::sigmoid`] of scores divided
    /// by the number of tokens.
    SigmoidNorm {
        /// β, about fifty times that of [`PairLoss::Sigmoid`].
        #[serde(default = "settings::beta_per_token")]
        beta: f64,
        /// ε.
        #[serde(default)]
        label_smoothing: f64,
    },
    /// [`paired::robust`].
    Robust {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
        /// ε, below ½.
        label_smoothing: f64,
    },
    /// [`paired::hinge`].
    Hinge {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
    },
    /// [`paired::ipo`].
    Ipo {
        /// β, the paper's τ.
        #[serde(default = "settings::beta")]
        beta: f64,
        /// Reduction of scores over tokens: means (its authors' choice) or sums (as printed).
        #[serde(default)]
        lengths: Lengths,
    },
    /// [`paired::exo`].
    ExoPair {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
        /// ε, above 0 and below ½.
        #[serde(default = "settings::exo_smoothing")]
        label_smoothing: f64,
    },
    /// [`paired::nca`].
    NcaPair {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
    },
    /// [`paired::bco`].
    BcoPair {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
        /// Definition of δ.
        #[serde(default)]
        shift: RewardShift,
    },
    /// [`paired::sppo_hard`].
    SppoHard {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
    },
    /// [`paired::aot`] of pairs: log-ratios of chosen to rejected, the policy's over the
    /// reference's.
    Aot {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
        /// ε.
        #[serde(default)]
        label_smoothing: f64,
    },
    /// [`paired::aot`] of responses: the log-ratios of the chosen over those of the rejected,
    /// regardless of their pairs; `aot_pair` in TRL 0.11.
    AotUnpaired {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
        /// ε.
        #[serde(default)]
        label_smoothing: f64,
    },
    /// [`paired::apo_zero`].
    ApoZero {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
    },
    /// [`paired::apo_down`].
    ApoDown {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
    },
    /// [`paired::discopop`].
    Discopop {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
        /// τ.
        #[serde(default = "settings::discopop_tau")]
        tau: f64,
    },
    /// Negative log-likelihood of the chosen response, a mean over all tokens of the batch. Added
    /// to another loss, it makes RPO (Pang et al. 2024,
    /// [arXiv:2404.19733](https://arxiv.org/abs/2404.19733)); TRL's `rpo_alpha` is its weight.
    Nll {},
    /// [`paired::simpo`], without a reference.
    Simpo {
        /// β.
        #[serde(default = "settings::simpo_beta")]
        beta: f64,
        /// γ, the target margin.
        #[serde(default = "settings::simpo_gamma")]
        gamma: f64,
        /// ε.
        #[serde(default)]
        label_smoothing: f64,
    },
    /// Odds-ratio preference optimization: negative log-likelihood of the chosen response plus `-λ
    /// log σ` of [`paired::log_odds_ratio`], without a reference.
    Orpo {
        /// λ.
        #[serde(default = "settings::beta")]
        lambda: f64,
    },
    /// Contrastive preference optimization (Xu et al. 2024,
    /// [arXiv:2401.08417](https://arxiv.org/abs/2401.08417)): [`paired::sigmoid`] of the
    /// log-probabilities themselves plus the chosen response's negative log-likelihood, without a
    /// reference.
    Cpo {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
        /// ε.
        #[serde(default)]
        label_smoothing: f64,
        /// Weight of the negative log-likelihood.
        #[serde(default = "settings::one")]
        nll_weight: f64,
    },
}

/// A loss of single responses with one verdict each; equations and sources in [`unpaired`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum UnpairedLoss {
    /// [`unpaired::kto`] times λ.
    Kto {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
        /// λ of desirable responses.
        #[serde(default = "settings::one")]
        desirable_weight: f64,
        /// λ of undesirable responses.
        #[serde(default = "settings::one")]
        undesirable_weight: f64,
    },
    /// [`unpaired::bco`].
    Bco {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
        /// Definition of δ.
        #[serde(default)]
        shift: RewardShift,
    },
    /// [`unpaired::apo_zero`].
    ApoZero {
        /// β.
        #[serde(default = "settings::beta")]
        beta: f64,
    },
}

/// One term of a weighted sum of losses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LossTerm {
    /// The factor of the loss.
    #[serde(default = "settings::one")]
    pub weight: f64,
    /// The loss.
    #[serde(flatten)]
    pub loss: PairLoss,
}

/// Weight of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// All pairs have the same weight.
    #[default]
    Uniform,
    /// The policy's own probability of both responses (Zhou et al. 2024, WPO,
    /// [arXiv:2406.11827](https://arxiv.org/abs/2406.11827), equation 2): the product over the two
    /// of `exp(mean over tokens of log π(y_t) - log Σ_v π_v²)`, without gradient.
    Wpo,
}

/// The objective that is minimised over preference pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PairObjective {
    /// The terms of the sum.
    pub terms: Vec<LossTerm>,
    /// The divergence in the losses of the score difference d: sigmoid, soft_sigmoid, sigmoid_norm,
    /// robust, hinge, ipo, exo_pair and discopop.
    #[serde(default)]
    pub divergence: ReferenceDivergence,
    /// α of length-desensitised DPO (Liu et al. 2024, LD-DPO,
    /// [arXiv:2409.06411](https://arxiv.org/abs/2409.06411)): tokens beyond the shorter response's
    /// length have weight α in the sums of log-probabilities. 1 is DPO.
    #[serde(default = "settings::one")]
    pub tail_weight: f64,
    /// The weight of each pair.
    #[serde(default)]
    pub weighting: Weighting,
}

/// An objective with a single loss.
impl From<PairLoss> for PairObjective {
    fn from(loss: PairLoss) -> Self {
        Self {
            terms: vec![LossTerm { weight: 1., loss }],
            divergence: ReferenceDivergence::default(),
            tail_weight: 1.,
            weighting: Weighting::default(),
        }
    }
}

/// Dependence of a loss on the other pairs of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coupling {
    /// The loss of each pair is independent of the others.
    Separate,
    /// The loss sorts or averages over the batch, so gradient accumulation has to see all of it
    /// first.
    WholeBatch,
}

impl PairLoss {
    /// β, the factor between log-ratios and implicit rewards.
    pub fn beta(&self) -> Option<f64> {
        match *self {
            Self::Sigmoid { beta, .. }
            | Self::SoftSigmoid { beta, .. }
            | Self::SigmoidNorm { beta, .. }
            | Self::Robust { beta, .. }
            | Self::Hinge { beta }
            | Self::Ipo { beta, .. }
            | Self::ExoPair { beta, .. }
            | Self::NcaPair { beta }
            | Self::BcoPair { beta, .. }
            | Self::SppoHard { beta }
            | Self::Aot { beta, .. }
            | Self::AotUnpaired { beta, .. }
            | Self::ApoZero { beta }
            | Self::ApoDown { beta }
            | Self::Discopop { beta, .. }
            | Self::Simpo { beta, .. }
            | Self::Orpo { lambda: beta }
            | Self::Cpo { beta, .. } => Some(beta),
            Self::Nll {} => None,
        }
    }

    /// `true` if the loss needs a reference policy.
    pub fn needs_reference(&self) -> bool {
        !matches!(self, Self::Nll {} | Self::Simpo { .. } | Self::Orpo { .. } | Self::Cpo { .. })
    }

    /// `true` if implicit rewards are means over a response's tokens.
    fn averages(&self) -> bool {
        matches!(self, Self::Simpo { .. } | Self::Orpo { .. })
    }

    /// `true` if the loss depends on [`ReferenceDivergence`].
    fn uses_scores(&self) -> bool {
        self.dependences().0
    }

    /// Returns the dependence of the loss on the other pairs of the batch.
    pub fn coupling(&self) -> Coupling {
        self.dependences().1
    }

    /// The dependences of the loss on [`ReferenceDivergence`], and on the other pairs of the batch.
    fn dependences(&self) -> (bool, Coupling) {
        match self {
            Self::Sigmoid { .. }
            | Self::SoftSigmoid { .. }
            | Self::SigmoidNorm { .. }
            | Self::Robust { .. }
            | Self::Hinge { .. }
            | Self::Ipo { .. }
            | Self::ExoPair { .. }
            | Self::Discopop { .. } => (true, Coupling::Separate),
            Self::Aot { .. }
            | Self::AotUnpaired { .. }
            | Self::BcoPair { shift: RewardShift::RunningMean, .. } => {
                (false, Coupling::WholeBatch)
            }
            Self::NcaPair { .. }
            | Self::BcoPair { .. }
            | Self::SppoHard { .. }
            | Self::ApoZero { .. }
            | Self::ApoDown { .. }
            | Self::Nll {}
            | Self::Simpo { .. }
            | Self::Orpo { .. }
            | Self::Cpo { .. } => (false, Coupling::Separate),
        }
    }

    /// The loss of each pair, `[B]`, with scores from `divergence`. The sum over the optimizer
    /// batch, divided by `scale.pairs`, is the loss of the batch.
    ///
    /// ```
    /// use rlaif_dpo::{BatchScale, ReferenceDivergence, PairLoss, PairSums};
    /// use tch::Tensor;
    /// let of = |x: &[f64]| Tensor::from_slice(x);
    /// let sums = PairSums {
    ///     chosen: of(&[-10.]), rejected: of(&[-30.]),
    ///     reference_chosen: of(&[-10.1]), reference_rejected: of(&[-20.1]),
    ///     chosen_lengths: of(&[5.]), rejected_lengths: of(&[5.]),
    ///     margins: of(&[f64::NAN]), weights: None,
    /// };
    /// let scale = BatchScale { pairs: 1., chosen_tokens: 5., reward_shift: 0. };
    /// let loss = PairLoss::Sigmoid { beta: 0.1, label_smoothing: 0. };
    /// let got = loss.losses(&sums, ReferenceDivergence::ReverseKl, scale).double_value(&[0]);
    /// assert!((got - 0.313262).abs() < 1e-6);
    /// ```
    pub fn losses(
        &self,
        x: &PairSums,
        divergence: ReferenceDivergence,
        scale: BatchScale,
    ) -> Tensor {
        let a = || &x.chosen - &x.reference_chosen;
        let b = || &x.rejected - &x.reference_rejected;
        let scores = || (divergence.score(&a()), divergence.score(&b()));
        let difference = || {
            let (chosen, rejected) = scores();
            chosen - rejected
        };
        let per_token = || {
            let (chosen, rejected) = scores();
            chosen / &x.chosen_lengths - rejected / &x.rejected_lengths
        };
        let means = || (&x.chosen / &x.chosen_lengths, &x.rejected / &x.rejected_lengths);
        // The sum over the batch is `pairs` times the mean over the batch's tokens.
        let nll = || -&x.chosen * (scale.pairs / scale.chosen_tokens);
        match *self {
            Self::Sigmoid { beta, label_smoothing } => {
                paired::sigmoid(&difference(), beta, label_smoothing)
            }
            Self::SoftSigmoid { beta, scale } => {
                paired::soft_sigmoid(&difference(), beta, &(&x.margins * scale).sigmoid())
            }
            Self::SigmoidNorm { beta, label_smoothing } => {
                paired::sigmoid(&per_token(), beta, label_smoothing)
            }
            Self::Robust { beta, label_smoothing } => {
                paired::robust(&difference(), beta, label_smoothing)
            }
            Self::Hinge { beta } => paired::hinge(&difference(), beta),
            Self::Ipo { beta, lengths: Lengths::Summed } => paired::ipo(&difference(), beta),
            Self::Ipo { beta, lengths: Lengths::Averaged } => paired::ipo(&per_token(), beta),
            Self::ExoPair { beta, label_smoothing } => {
                paired::exo(&difference(), beta, label_smoothing)
            }
            Self::NcaPair { beta } => paired::nca(&a(), &b(), beta),
            Self::BcoPair { beta, shift } => {
                let shift = match shift {
                    RewardShift::RunningMean => scale.reward_shift,
                    RewardShift::None => 0.,
                };
                paired::bco(&a(), &b(), beta, shift)
            }
            Self::SppoHard { beta } => paired::sppo_hard(&a(), &b(), beta),
            Self::Aot { beta, label_smoothing } => paired::aot(
                &(&x.chosen - &x.rejected),
                &(&x.reference_chosen - &x.reference_rejected),
                beta,
                label_smoothing,
            ),
            Self::AotUnpaired { beta, label_smoothing } => {
                paired::aot(&a(), &b(), beta, label_smoothing)
            }
            Self::ApoZero { beta } => paired::apo_zero(&a(), &b(), beta),
            Self::ApoDown { beta } => paired::apo_down(&a(), &b(), beta),
            Self::Discopop { beta, tau } => paired::discopop(&difference(), beta, tau),
            Self::Nll {} => nll(),
            Self::Simpo { beta, gamma, label_smoothing } => {
                let (chosen, rejected) = means();
                paired::simpo(&chosen, &rejected, beta, gamma, label_smoothing)
            }
            Self::Orpo { lambda } => {
                let (chosen, rejected) = means();
                nll() - paired::log_odds_ratio(&chosen, &rejected).log_sigmoid() * lambda
            }
            Self::Cpo { beta, label_smoothing, nll_weight } => {
                let d = &x.chosen - &x.rejected;
                paired::sigmoid(&d, beta, label_smoothing) + nll() * nll_weight
            }
        }
    }
}

impl PairObjective {
    /// The weighted sum of the terms for each pair, `[B]`; see [`PairLoss::losses`].
    pub fn losses(&self, x: &PairSums, scale: BatchScale) -> Tensor {
        let terms = self.terms.iter().map(|term| {
            let losses = term.loss.losses(x, self.divergence, scale);
            if term.weight == 1. { losses } else { losses * term.weight }
        });
        let sum = terms.reduce(|sum, term| sum + term).unwrap_or_else(|| x.chosen.zeros_like());
        match &x.weights {
            Some(weights) => sum * weights,
            None => sum,
        }
    }

    /// Implicit rewards of chosen and rejected responses, `[B]` each, without gradient: `β (log π -
    /// log π_ref)` with the β of the first term that has one. For a loss without a reference, `β
    /// log π`, per token if the loss is per token.
    pub fn rewards(&self, x: &PairSums) -> (Tensor, Tensor) {
        let first = self.terms.iter().find_map(|term| Some((&term.loss, term.loss.beta()?)));
        let (averages, beta) = first.map_or((false, 1.), |(loss, beta)| (loss.averages(), beta));
        let reward = |policy: &Tensor, reference: &Tensor, lengths: &Tensor| {
            let ratio = (policy - reference).detach() * beta;
            if averages { ratio / lengths } else { ratio }
        };
        (
            reward(&x.chosen, &x.reference_chosen, &x.chosen_lengths),
            reward(&x.rejected, &x.reference_rejected, &x.rejected_lengths),
        )
    }

    /// `true` if the objective needs a reference policy.
    pub fn needs_reference(&self) -> bool {
        self.terms.iter().any(|term| term.loss.needs_reference())
    }

    /// `true` if every pair must come with a margin.
    pub fn needs_margins(&self) -> bool {
        self.terms.iter().any(|term| matches!(term.loss, PairLoss::SoftSigmoid { .. }))
    }

    /// `true` if BCO's δ has to be updated.
    pub fn tracks_reward_shift(&self) -> bool {
        let tracks =
            |loss| matches!(loss, PairLoss::BcoPair { shift: RewardShift::RunningMean, .. });
        self.terms.iter().any(|term| tracks(term.loss))
    }

    /// Returns the dependence of the objective on the other pairs of the batch.
    pub fn coupling(&self) -> Coupling {
        if self.terms.iter().any(|term| term.loss.coupling() == Coupling::WholeBatch) {
            Coupling::WholeBatch
        } else {
            Coupling::Separate
        }
    }
}

impl UnpairedLoss {
    /// β.
    pub fn beta(&self) -> f64 {
        match *self {
            Self::Kto { beta, .. } | Self::Bco { beta, .. } | Self::ApoZero { beta } => beta,
        }
    }

    /// `true` if the KL baseline of mismatched responses is needed.
    pub fn needs_baseline(&self) -> bool {
        matches!(self, Self::Kto { .. })
    }

    /// `true` if BCO's δ has to be updated.
    pub fn tracks_reward_shift(&self) -> bool {
        matches!(self, Self::Bco { shift: RewardShift::RunningMean, .. })
    }

    /// The loss of each response, `[N]`; their mean is the loss of the batch. `shift` is the KL
    /// baseline of KTO, and δ of BCO.
    ///
    /// ```
    /// use rlaif_dpo::{ResponseSums, UnpairedLoss};
    /// use tch::Tensor;
    /// let of = |x: &[f64]| Tensor::from_slice(x);
    /// let sums = ResponseSums { policy: of(&[-3.]), reference: of(&[-3.]), signs: of(&[1.]) };
    /// let loss = UnpairedLoss::ApoZero { beta: 0.1 };
    /// assert_eq!(loss.losses(&sums, 0.).double_value(&[0]), 0.5);
    /// ```
    pub fn losses(&self, x: &ResponseSums, shift: f64) -> Tensor {
        let r = &x.policy - &x.reference;
        match *self {
            Self::Kto { beta, desirable_weight, undesirable_weight } => {
                let weights = (&x.signs + 1.) * (desirable_weight / 2.)
                    + (1. - &x.signs) * (undesirable_weight / 2.);
                unpaired::kto(&r, &x.signs, beta, shift) * weights
            }
            Self::Bco { beta, shift: RewardShift::RunningMean } => {
                unpaired::bco(&r, &x.signs, beta, shift)
            }
            Self::Bco { beta, shift: RewardShift::None } => unpaired::bco(&r, &x.signs, beta, 0.),
            Self::ApoZero { beta } => unpaired::apo_zero(&r, &x.signs, beta),
        }
    }
}
