//! Algorithms by name, with the settings of their papers.

use std::num::NonZeroUsize;

use rlaif_rl::{
    AdvantageEstimator, AdvantageScale, Anchor, Average, Combination, KlForm, KlWeight, Overlong,
    PolicyObjective, RatioLevel, Surrogate,
};
use rlaif_train::KlEstimator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dynamic::DynamicSampling;

/// An algorithm with the settings of its paper; `docs/reinforce.md` has their equations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NamedAlgorithm {
    /// Group-relative policy optimization ([Shao et al. 2024](https://arxiv.org/abs/2402.03300)).
    #[default]
    Grpo,
    /// GRPO without the deviation, with a constant divisor
    /// ([Liu et al. 2025](https://arxiv.org/abs/2503.20783)).
    DrGrpo,
    /// Clip-higher, token mean, dynamic sampling, soft overlong penalty
    /// ([Yu et al. 2025](https://arxiv.org/abs/2503.14476)).
    Dapo,
    /// REINFORCE with the mean of the others as its baseline
    /// ([Ahmadian et al. 2024](https://arxiv.org/abs/2402.14740)).
    Rloo,
    /// One response to a prompt, returns whitened over the batch
    /// ([Hu et al. 2025](https://arxiv.org/abs/2501.03262)).
    ReinforcePlusPlus,
    /// The same with the mean of a group as its baseline, and the KL penalty in the loss.
    ReinforcePlusPlusBaseline,
    /// The ratio of a sequence ([Zheng et al. 2025](https://arxiv.org/abs/2507.18071)).
    Gspo,
    /// A truncated weight in place of a clip
    /// ([MiniMax 2025](https://arxiv.org/abs/2506.13585)).
    Cispo,
    /// A soft gate in place of a clip ([Gao et al. 2025](https://arxiv.org/abs/2511.20347)).
    Sapo,
    /// A bound on the change of a token's probability in place of a clip
    /// ([Qi et al. 2026](https://arxiv.org/abs/2602.04879)), as prime-rl has it.
    DppoTv,
    /// REINFORCE with the score of the greedy response as its baseline
    /// ([Li et al. 2023](https://arxiv.org/abs/2310.10505)).
    #[serde(rename = "remax")]
    ReMax,
}

/// The settings of an algorithm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Advantages and loss.
    pub combination: Combination,
    /// Responses to a prompt.
    pub group_size: usize,
    /// Sampling in place of groups whose scores are all equal.
    pub dynamic_sampling: DynamicSampling,
    /// The penalty for long responses.
    pub overlong: Option<Overlong>,
}

const NORMALISED: AdvantageEstimator =
    AdvantageEstimator::GroupMean { scale: AdvantageScale::Group { eps: 1e-4 } };
const CENTRED: AdvantageEstimator = AdvantageEstimator::GroupMean { scale: AdvantageScale::None };

const fn clipped(low: f64, high: f64) -> Surrogate {
    Surrogate::Clipped { low, high, dual_clip: None }
}

impl NamedAlgorithm {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Grpo,
        Self::DrGrpo,
        Self::Dapo,
        Self::Rloo,
        Self::ReinforcePlusPlus,
        Self::ReinforcePlusPlusBaseline,
        Self::Gspo,
        Self::Cispo,
        Self::Sapo,
        Self::DppoTv,
        Self::ReMax,
    ];

    /// The settings of its paper, for responses of at most `max_new_tokens` tokens.
    ///
    /// ```
    /// use rlaif_reinforce::NamedAlgorithm;
    /// use rlaif_reinforce::rl::{Average, Surrogate};
    /// let dapo = NamedAlgorithm::Dapo.settings(512);
    /// let surrogate = Surrogate::Clipped { low: 0.2, high: 0.28, dual_clip: None };
    /// assert_eq!(dapo.combination.objective.surrogate, surrogate);
    /// assert_eq!(dapo.combination.objective.average, Average::Tokens);
    /// ```
    pub fn settings(self, max_new_tokens: usize) -> Settings {
        let of = |advantage, objective, group_size| Settings {
            combination: Combination { advantage, objective },
            group_size,
            dynamic_sampling: DynamicSampling { rounds: 0 },
            overlong: None,
        };
        let tokens = PolicyObjective::new;
        let with = |average, surrogate| PolicyObjective { average, ..tokens(surrogate) };
        let whole = |coef| PolicyObjective {
            kl: KlForm::Reward { coef, estimator: KlEstimator::K1 },
            ..with(Average::Constant(NonZeroUsize::MIN), Surrogate::Reinforce)
        };
        match self {
            Self::Grpo => {
                let kl = KlForm::Loss {
                    coef: 0.04,
                    estimator: KlEstimator::K3,
                    weight: KlWeight::Ratio,
                };
                let objective = with(Average::Responses, clipped(0.2, 0.2));
                of(NORMALISED, PolicyObjective { kl, ..objective }, 64)
            }
            Self::DrGrpo => {
                // A limit of 0 is refused with the generation's settings.
                let limit = NonZeroUsize::new(max_new_tokens).unwrap_or(NonZeroUsize::MIN);
                let average = Average::Constant(limit);
                of(CENTRED, with(average, clipped(0.2, 0.2)), 8)
            }
            Self::Dapo => Settings {
                dynamic_sampling: DynamicSampling { rounds: 10 },
                overlong: Some(Overlong { limit: max_new_tokens, buffer: max_new_tokens / 5 }),
                ..of(NORMALISED, tokens(clipped(0.2, 0.28)), 16)
            },
            Self::Rloo => {
                of(AdvantageEstimator::LeaveOneOut { scale: AdvantageScale::None }, whole(0.05), 4)
            }
            Self::ReinforcePlusPlus => {
                let kl = KlForm::Reward { coef: 0.01, estimator: KlEstimator::K1 };
                let objective = PolicyObjective { kl, ..tokens(clipped(0.2, 0.2)) };
                of(AdvantageEstimator::ToGo { gamma: 1. }, objective, 1)
            }
            Self::ReinforcePlusPlusBaseline => {
                let kl =
                    KlForm::Loss { coef: 0.01, estimator: KlEstimator::K2, weight: KlWeight::None };
                let objective = PolicyObjective { kl, ..tokens(clipped(0.2, 0.2)) };
                of(AdvantageEstimator::WhitenedGroupMean, objective, 8)
            }
            Self::Gspo => {
                let objective = with(Average::Responses, clipped(3e-4, 4e-4));
                of(NORMALISED, PolicyObjective { ratio: RatioLevel::Sequence, ..objective }, 8)
            }
            Self::Cispo => of(NORMALISED, tokens(Surrogate::Truncated { least: 0., most: 5. }), 16),
            Self::Sapo => {
                let surrogate = Surrogate::SoftGate { positive: 1., negative: 1.05 };
                of(NORMALISED, with(Average::Responses, surrogate), 8)
            }
            Self::DppoTv => {
                let surrogate = Surrogate::TotalVariation { bound: 0.2, penalty: 1e-3 };
                let anchor = Anchor::Sampler;
                of(CENTRED, PolicyObjective { anchor, ..tokens(surrogate) }, 8)
            }
            Self::ReMax => of(AdvantageEstimator::Greedy, whole(0.1), 1),
        }
    }
}
