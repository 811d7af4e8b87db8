//! The place of the KL penalty: in the reward, in the loss, or nowhere.

use rlaif_train::KlEstimator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Form of the KL penalty against the reference.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KlForm {
    /// None: no reference is needed.
    #[default]
    None,
    /// `−β k_t` in the reward of each token, as in PPO.
    Reward {
        /// β.
        coef: f64,
        /// Estimator k.
        #[serde(default)]
        estimator: KlEstimator,
    },
    /// `β k_t` in the loss of each token, with its gradient.
    Loss {
        /// β.
        coef: f64,
        /// Estimator k.
        estimator: KlEstimator,
        /// Factor of k. The gradient of `ρ k3` is that of the KL divergence; the gradient of k3 alone
        /// is not.
        #[serde(default)]
        weight: KlWeight,
    },
}

/// Factor of an estimate of the KL divergence in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KlWeight {
    /// 1.
    #[default]
    None,
    /// The ratio ρ of the policy to the one that sampled, with its gradient.
    Ratio,
}

impl KlForm {
    /// β; 0 without a penalty.
    pub fn coef(self) -> f64 {
        match self {
            Self::None => 0.,
            Self::Reward { coef, .. } | Self::Loss { coef, .. } => coef,
        }
    }

    /// The estimator, if there is a penalty.
    pub fn estimator(self) -> Option<KlEstimator> {
        match self {
            Self::None => None,
            Self::Reward { estimator, .. } | Self::Loss { estimator, .. } => Some(estimator),
        }
    }

    /// β of a penalty in the token rewards; 0 for other forms.
    pub fn reward_coef(self) -> f64 {
        if let Self::Reward { coef, .. } = self { coef } else { 0. }
    }

    /// The loss `β k_t` of each token, for a penalty in the loss. `ratio` is that of the policy to
    /// the one that sampled.
    pub(crate) fn loss(
        self,
        log_probs: &Tensor,
        reference: &Tensor,
        ratio: &Tensor,
    ) -> Option<Tensor> {
        let Self::Loss { coef, estimator, weight } = self else { return None };
        let kl = estimator.estimate(log_probs, reference) * coef;
        Some(match weight {
            KlWeight::None => kl,
            KlWeight::Ratio => kl * ratio,
        })
    }
}
