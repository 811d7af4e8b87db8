//! The loss of algorithms without a value function: ratio, surrogate, corrections, KL.

use rlaif_lm::Mask;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{
    correction::{Correction, OffPolicyMask},
    kl_form::KlForm,
    objective::{Average, PolicyLoss, Surrogate},
    ratio::RatioLevel,
};

/// The policy that the ratio is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// The weights that sampled, computed by the training pass: the first ratio is exactly 1.
    #[default]
    Trainer,
    /// The sampler, with its own log-probabilities: the ratio then includes the difference between
    /// sampler and training pass, so a [`Correction`] is not allowed.
    Sampler,
}

/// A loss of tokens, and the mean over them, for algorithms without a value function:
///
/// ```text
/// ρ   = exp(level(log π − log π_anchor))
/// L_t = surrogate(ρ, Â_t) · off-policy mask · correction + β KL_t
/// L   = average(L_t)
/// ```
///
/// The order is TRL 1.16's: the KL penalty is not weighted by the correction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyObjective {
    /// The level of the ratio: token or response.
    pub ratio: RatioLevel,
    /// The policy that the ratio is relative to.
    pub anchor: Anchor,
    /// The loss of a token.
    pub surrogate: Surrogate,
    /// The mean over tokens.
    pub average: Average,
    /// The KL penalty.
    pub kl: KlForm,
    /// Importance weight: the ratio of the training pass to the sampler.
    pub correction: Correction,
    /// Responses that are left out because the policy has moved away from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off_policy: Option<OffPolicyMask>,
}

/// The tokens of some rows, `[B, T]` each.
#[derive(Debug, Clone, Copy)]
pub struct PolicyTokens<'a> {
    /// log π(y_t) of the current weights, with its gradient.
    pub log_probs: &'a Tensor,
    /// log π(y_t) of the weights that sampled, by the training pass.
    pub old: &'a Tensor,
    /// log π(y_t) as the sampler tells it; NaN where it does not. Without it, `old` is taken.
    pub sampler: Option<&'a Tensor>,
    /// log π_ref(y_t). Without it there is no KL in the loss.
    pub reference: Option<&'a Tensor>,
    /// Â_t.
    pub advantages: &'a Tensor,
    /// The tokens that count.
    pub mask: &'a Mask,
}

/// The losses of tokens, `[B, T]` each.
#[derive(Debug)]
pub struct PolicyLosses {
    /// The surrogate, after the off-policy mask and the correction.
    pub policy: Tensor,
    /// `β KL_t`, if it is in the loss.
    pub kl: Option<Tensor>,
    /// The ratio, without gradient.
    pub ratio: Tensor,
    /// 1 where a bound of the surrogate takes effect.
    pub clipped: Tensor,
}

impl PolicyLosses {
    /// The loss of each token.
    pub fn total(&self) -> Tensor {
        match &self.kl {
            Some(kl) => &self.policy + kl,
            None => self.policy.shallow_clone(),
        }
    }
}

impl PolicyObjective {
    /// Computes the losses of tokens. Masked values have no influence, not even NaN.
    pub fn losses(&self, tokens: PolicyTokens<'_>) -> PolicyLosses {
        let PolicyTokens { mask, .. } = tokens;
        let clean = |x: &Tensor| mask.apply(x);
        let [log_probs, old, advantages] =
            [tokens.log_probs, tokens.old, tokens.advantages].map(clean);
        let sampler = tokens.sampler.map_or_else(|| old.shallow_clone(), clean);
        let anchor = match self.anchor {
            Anchor::Trainer => old.shallow_clone(),
            // Missing log-probabilities of the sampler are taken from the training pass.
            Anchor::Sampler => old.where_self(&sampler.isnan(), &sampler),
        };
        let ratio = self.ratio.log(&(&log_probs - &anchor), mask).exp();
        let kl = tokens
            .reference
            .and_then(|reference| self.kl.loss(&log_probs, &clean(reference), &ratio));
        let PolicyLoss { mut loss, ratio, clipped } =
            self.surrogate.of_ratio(&ratio, &log_probs, &anchor, &advantages);
        if let Some(off_policy) = self.off_policy {
            loss *= off_policy.of(&advantages, &log_probs, &sampler, mask);
        }
        if let Some(weights) = self.correction.weights(&old, &sampler, mask) {
            loss *= weights;
        }
        PolicyLosses {
            policy: loss,
            kl,
            ratio: ratio.expand_as(&log_probs),
            clipped: clipped.expand_as(&log_probs),
        }
    }

    /// `true` if the loss uses the log-probabilities of a reference.
    pub fn needs_reference(&self) -> bool {
        self.kl != KlForm::None
    }
}
