//! The f-divergences of f-DPO between the policy and its reference.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The divergence that keeps the policy near its reference.
///
/// With u = π(y|x) / π_ref(y|x) and f the generator of the divergence, the score of a response is
/// `f'(u)` up to a constant, which cancels between the two responses of a pair (Wang et al. 2023,
/// [arXiv:2309.16240](https://arxiv.org/abs/2309.16240), Theorem 1).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ReferenceDivergence {
    /// KL(π ‖ π_ref), that of DPO itself: `log u`.
    #[default]
    ReverseKl,
    /// KL(π_ref ‖ π): `1 - 1/u`.
    ForwardKl,
    /// The Jensen-Shannon divergence: `log (2u / (1 + u))`.
    JensenShannon,
    /// The α-divergence: `(u^(α-1) - 1) / (α - 1)`; α → 1 is [`ReferenceDivergence::ReverseKl`] and α = 0
    /// is [`ReferenceDivergence::ForwardKl`]. TRL 0.11's coefficient is 1 - α.
    Alpha {
        /// α.
        alpha: f64,
    },
}

/// `e^80` is finite in f32: beyond this exponent, the α-divergence no longer grows.
const EXPONENT: f64 = 80.;

impl ReferenceDivergence {
    /// Scores `[B]` of responses whose log-ratios `log u` are `[B]`.
    ///
    /// ```
    /// use rlaif_dpo::ReferenceDivergence;
    /// use tch::Tensor;
    /// let log_ratio = Tensor::from_slice(&[2f64.ln()]);
    /// let score = ReferenceDivergence::ForwardKl.score(&log_ratio);
    /// assert!((score.double_value(&[0]) - 0.5).abs() < 1e-12);
    /// ```
    pub fn score(self, log_ratio: &Tensor) -> Tensor {
        match self {
            Self::ReverseKl => log_ratio.shallow_clone(),
            Self::ForwardKl => 1. - (-log_ratio).exp(),
            Self::JensenShannon => log_ratio.log_sigmoid() + std::f64::consts::LN_2,
            Self::Alpha { alpha } if (alpha - 1.).abs() < 1e-6 => log_ratio.shallow_clone(),
            Self::Alpha { alpha } => {
                let power = (log_ratio * (alpha - 1.)).clamp_max(EXPONENT).exp();
                (power - 1.) / (alpha - 1.)
            }
        }
    }
}
