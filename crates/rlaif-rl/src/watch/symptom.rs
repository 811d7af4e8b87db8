//! Symptoms of a failing run, and their signs.

use serde::{Deserialize, Serialize};

/// A symptom of a failing run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Symptom {
    /// KL against the reference below −1 nat per response.
    NegativeKl,
    /// KL against the reference far beyond its target.
    RunawayKl,
    /// The policy is nearly deterministic.
    EntropyCollapse,
    /// An update changes the policy too much.
    LargeRatio,
    /// Every response has the same score.
    EqualScores,
    /// No response ends before its limit.
    NeverEnds,
    /// All scores are close to the highest score seen so far.
    SaturatedScores,
    /// The sampler and the training pass disagree on the same tokens.
    SamplerGap,
    /// Gradients contain NaN or infinity.
    NotFinite,
}

impl Symptom {
    /// All symptoms.
    pub const ALL: [Self; 9] = [
        Self::NegativeKl,
        Self::RunawayKl,
        Self::EntropyCollapse,
        Self::LargeRatio,
        Self::EqualScores,
        Self::NeverEnds,
        Self::SaturatedScores,
        Self::SamplerGap,
        Self::NotFinite,
    ];

    /// The name in `findings.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NegativeKl => "negative_kl",
            Self::RunawayKl => "runaway_kl",
            Self::EntropyCollapse => "entropy_collapse",
            Self::LargeRatio => "large_ratio",
            Self::EqualScores => "equal_scores",
            Self::NeverEnds => "never_ends",
            Self::SaturatedScores => "saturated_scores",
            Self::SamplerGap => "sampler_gap",
            Self::NotFinite => "not_finite",
        }
    }
}

/// A sign of a symptom in one step.
pub(super) struct Sign {
    pub(super) symptom: Symptom,
    pub(super) seen: String,
    pub(super) cause: &'static str,
    pub(super) advice: String,
}
