//! Algorithms: from a rollout to token weights.

use rlaif_lm::Mask;
use rlaif_rl::{
    AdvantageEstimator, Combination, KlForm, PolicyObjective, Rewarded, RlError, score_tensor,
    token_rewards,
};
use tch::Tensor;

use crate::experience::Experience;

/// One weight for each token of a rollout.
#[derive(Debug)]
pub struct Weighted {
    /// The weights, `[B, T]`.
    pub weights: Tensor,
    /// The tokens that count in the mean.
    pub mask: Mask,
}

/// Token weights for the components of the loss; an absent component costs nothing. The loss of
/// an optimizer batch is the sum of the components' means, each over its own tokens.
#[derive(Debug, Default)]
pub struct TokenWeights {
    /// Advantages Â_t, for the surrogate of [`Algorithm::objective`].
    pub policy_gradient: Option<Weighted>,
    /// Weights of `−log π(y_t)`.
    pub likelihood: Option<Weighted>,
    /// Weights of `β KL_t`, the KL penalty in the loss of [`Algorithm::objective`].
    pub kl: Option<Weighted>,
}

/// An algorithm without a value function: it defines token weights, and the loss that uses them.
///
/// ```
/// use rlaif_reinforce::{Algorithm, Experience, TokenWeights, Weighted};
/// use rlaif_reinforce::rl::{PolicyObjective, RlError, Surrogate, score_tensor};
///
/// /// Imitates responses with a positive score, and learns nothing from others.
/// struct Filtered;
///
/// impl Algorithm for Filtered {
///     fn objective(&self) -> PolicyObjective {
///         PolicyObjective::new(Surrogate::Reinforce)
///     }
///
///     fn weigh(&self, experience: &Experience) -> Result<TokenWeights, RlError> {
///         let rollout = &experience.rollout;
///         let scores = score_tensor(&rollout.shaped_scores, rollout.log_probs.device());
///         let good = scores.gt(0.).unsqueeze(1).expand_as(&rollout.log_probs);
///         let mask = rollout.mask.clone();
///         let weights = good.to_kind(rollout.log_probs.kind());
///         Ok(TokenWeights { likelihood: Some(Weighted { weights, mask }), ..Default::default() })
///     }
/// }
/// ```
pub trait Algorithm {
    /// The loss of a token, and its mean over tokens.
    fn objective(&self) -> PolicyObjective;

    /// Computes the token weights of a rollout.
    ///
    /// # Errors
    /// [`RlError`] for a rollout that lacks what the algorithm needs.
    fn weigh(&self, experience: &Experience) -> Result<TokenWeights, RlError>;

    /// `true` if the rollout needs the score of a greedy response to each prompt; `false` by
    /// default.
    fn needs_greedy(&self) -> bool {
        false
    }

    /// `true` if scores that are equal in a whole group teach nothing, so that a replay buffer need not keep it;
    /// `false` by default.
    fn compares_in_groups(&self) -> bool {
        false
    }
}

impl Algorithm for Combination {
    fn objective(&self) -> PolicyObjective {
        self.objective
    }

    fn weigh(&self, experience: &Experience) -> Result<TokenWeights, RlError> {
        let _guard = tch::no_grad_guard();
        let rollout = &experience.rollout;
        let mask = &rollout.mask;
        let scores = score_tensor(&rollout.shaped_scores, rollout.kl.device());
        let kl = self.objective.kl;
        let rewards = token_rewards(&scores, &rollout.kl, kl.reward_coef(), mask);
        let weights = self.advantage.estimate(Rewarded {
            rewards: &rewards,
            mask,
            groups: &experience.groups,
            greedy: experience.greedy.as_deref(),
            steps: experience.steps.as_deref(),
        })?;
        let in_loss = matches!(kl, KlForm::Loss { .. });
        let kl = in_loss.then(|| Weighted { weights: weights.ones_like(), mask: mask.clone() });
        let policy_gradient = Some(Weighted { weights, mask: mask.clone() });
        Ok(TokenWeights { policy_gradient, kl, likelihood: None })
    }

    fn needs_greedy(&self) -> bool {
        self.advantage == AdvantageEstimator::Greedy
    }

    fn compares_in_groups(&self) -> bool {
        match self.advantage {
            AdvantageEstimator::GroupMean { .. }
            | AdvantageEstimator::LeaveOneOut { .. }
            | AdvantageEstimator::LengthWeighted
            | AdvantageEstimator::WhitenedGroupMean => true,
            // Scores of steps differ where those of responses do not; the others compare with other prompts, or with
            // a response outside the group.
            AdvantageEstimator::GroupSteps { .. }
            | AdvantageEstimator::ToGo { .. }
            | AdvantageEstimator::Greedy => false,
        }
    }
}
