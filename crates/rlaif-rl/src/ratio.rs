//! The ratio of two policies, of a token or of a response.

use rlaif_lm::Mask;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The probability in the ratio π(y) / π_old(y).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RatioLevel {
    /// `ρ_t` of each token.
    #[default]
    Token,
    /// `(Π_t ρ_t)^(1/|y|)`, the geometric mean over the tokens of a response: GSPO ([Zheng et al.
    /// 2025](https://arxiv.org/abs/2507.18071)). This is much closer to 1 than ρ_t.
    Sequence,
    /// `Π_t ρ_t`, of the whole response: far from 1 for long responses.
    Product,
}

impl RatioLevel {
    /// The logarithm of the ratio, computed from that of each token `[B, T]`. The result is `[B,
    /// T]`, or `[B, 1]` for the levels of a response. Gradients flow to every token of the
    /// response.
    ///
    /// ```
    /// use rlaif_lm::Mask;
    /// use rlaif_rl::RatioLevel;
    /// use tch::Tensor;
    /// let mask = Mask::new(Tensor::from_slice2(&[[true, true, false]]));
    /// let log_ratio = Tensor::from_slice2(&[[0.1f64, 0.3, f64::NAN]]);
    /// let mean = RatioLevel::Sequence.log(&log_ratio, &mask);
    /// assert!((mean.double_value(&[0, 0]) - 0.2).abs() < 1e-12);
    /// ```
    pub fn log(self, log_ratio: &Tensor, mask: &Mask) -> Tensor {
        match self {
            Self::Token => mask.apply(log_ratio),
            Self::Sequence => {
                let tokens = mask.tensor().sum_dim_intlist(1, true, log_ratio.kind());
                mask.row_sums(log_ratio).unsqueeze(1) / tokens.clamp_min(1.)
            }
            Self::Product => mask.row_sums(log_ratio).unsqueeze(1),
        }
    }
}
