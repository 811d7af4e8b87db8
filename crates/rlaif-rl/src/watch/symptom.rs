//! Things that go wrong, and the signs by which they are seen.

use serde::{Deserialize, Serialize};

/// Something that goes wrong in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Symptom {
    /// KL against the reference below −1 nat per response.
    NegativeKl,
    /// KL against the reference far beyond its target.
    RunawayKl,
    /// The policy has become all but deterministic.
    EntropyCollapse,
    /// The policy moves too far within an update.
    LargeRatio,
    /// Every response has the same score.
    EqualScores,
    /// No response ends before its limit.
    NeverEnds,
    /// Scores have lost their spread at the top of what was ever seen.
    SaturatedScores,
    /// The sampler and the training pass disagree on the same tokens.
    SamplerGap,
    /// Gradients hold NaN or infinity.
    NotFinite,
}

impl Symptom {
    /// All of them.
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

    /// The name that `findings.json` has for it.
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
