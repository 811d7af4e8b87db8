//! Known faults of combinations.

use rlaif_train::KlEstimator;

/// A known fault of a combination: [`CombinationConcern::setting`] names the setting, and the
/// message gives the reason.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CombinationConcern {
    /// Refused: a group of one response in an algorithm that compares the responses of a group.
    #[error(
        "is {found}: the advantages compare the responses to one prompt, and a single response \
         has none to be compared with; take at least 2, or the advantage `to_go` or `greedy`"
    )]
    GroupOfOne {
        /// Responses to a prompt.
        found: usize,
    },
    /// Refused: bounds of CISPO that scale the loss down even for an unchanged policy.
    #[error(
        "is {most}: the ratio is 1 where the policy has not moved, and would be cut to {most}, \
         which only scales the learning rate; this is a bound of the ratio itself, so take 5, for \
         example"
    )]
    TruncatedBelowOne {
        /// The largest weight.
        most: f64,
    },
    /// Refused: bounds of a correction that do not include 1.
    #[error(
        "is {least} to {most}: the ratio is 1 where sampler and training pass agree, and these bounds \
         leave it out"
    )]
    CorrectionWithoutOne {
        /// The least ratio.
        least: f64,
        /// The largest.
        most: f64,
    },
    /// Refused: the difference of the sampler would count twice.
    #[error(
        "is set, while the anchor is the sampler: the ratio holds the difference between sampler and \
         training pass already, and the weight would count it twice; take the anchor `trainer`, or no \
         correction"
    )]
    CorrectedTwice,
    /// Refused: a KL penalty in rewards that the estimator does not read.
    #[error(
        "is in the reward, while the advantages are those of steps (`group_steps`) and read no rewards of \
         tokens; put it into the loss, or take `none`"
    )]
    StepsWithoutRewards,
    /// Refused: an estimator whose gradient in the loss is not that of the KL divergence.
    #[error(
        "is {estimator:?} in the loss: {why}; take k3 with `weight = \"ratio\"`, or k2, or put k1 into \
         the reward"
    )]
    KlGradient {
        /// The estimator.
        estimator: KlEstimator,
        /// The defect.
        why: &'static str,
    },
    /// A warning: k3 in the loss without the ratio.
    #[error(
        "is k3 in the loss with `weight = \"none\"`: its gradient is not that of the KL divergence as \
         soon as the policy has moved; set `weight` to `ratio`"
    )]
    UnweightedK3,
    /// A warning: a clip that never takes effect.
    #[error(
        "is {low} and {high} with the ratio of a sequence, a mean over tokens that stays far closer to 1 \
         than the ratio of a token: it never clips; the paper has 0.0003 and 0.0004"
    )]
    WideSequenceClip {
        /// ε below.
        low: f64,
        /// ε above.
        high: f64,
    },
    /// A warning: the ratio of a response together with a mean over tokens.
    #[error(
        "is `tokens`, while the ratio is that of a response: its loss then counts once for each of its \
         tokens, so that long responses weigh more; take `responses`"
    )]
    SequenceRatioOverTokens,
    /// A warning: several optimizer steps on a rollout without a ratio.
    #[error(
        "is `reinforce`, while {updates} optimizer steps are made on a rollout: after the first of them \
         the responses are those of another policy, and nothing corrects for it; make one step, or take \
         a surrogate with a ratio"
    )]
    StaleReinforce {
        /// Optimizer steps on a rollout.
        updates: u64,
    },
    /// A warning: responses of earlier weights that count like those of the current ones.
    #[error(
        "is `none`, while responses are up to {staleness} update(s) old and the ratio is that to the weights at the \
         start of the step: nothing corrects for the weights that sampled; take `{{ truncate = {{ level = \"token\", \
         most = 2.0 }} }}`, for example, or the anchor `sampler`"
    )]
    StaleWithoutCorrection {
        /// Most updates between the weights that sampled and those that learn.
        staleness: u64,
    },
    /// A warning: a fixed value for missing scores.
    #[error(
        "is a value: a response that no judge could score would move the baseline of its whole group; \
         take `drop`"
    )]
    PlaceholderScore,
    /// A warning: the standard deviation of a group of two.
    #[error(
        "is 2, and advantages are divided by the deviation of the group: of two different scores the \
         advantages are then always ±0.71, however far apart they are; take more responses, or the scale \
         `none`"
    )]
    DeviationOfTwo,
}

impl CombinationConcern {
    /// The setting's path.
    pub fn setting(&self) -> &'static str {
        match self {
            Self::GroupOfOne { .. } | Self::DeviationOfTwo => "group_size",
            Self::TruncatedBelowOne { .. } => "surrogate.truncated.most",
            Self::CorrectionWithoutOne { .. }
            | Self::CorrectedTwice
            | Self::StaleWithoutCorrection { .. } => "correction",
            Self::StepsWithoutRewards => "kl",
            Self::KlGradient { .. } | Self::UnweightedK3 => "kl.loss.estimator",
            Self::WideSequenceClip { .. } => "surrogate.clipped",
            Self::SequenceRatioOverTokens => "average",
            Self::StaleReinforce { .. } => "surrogate",
            Self::PlaceholderScore => "scores.missing",
        }
    }

    /// `true` if the combination is an error; the others are warnings.
    pub fn is_refused(&self) -> bool {
        matches!(
            self,
            Self::GroupOfOne { .. }
                | Self::TruncatedBelowOne { .. }
                | Self::CorrectionWithoutOne { .. }
                | Self::CorrectedTwice
                | Self::StepsWithoutRewards
                | Self::KlGradient { .. }
        )
    }
}
