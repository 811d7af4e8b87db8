//! Reward models composed of reward models.
//!
//! A row without a verdict from an inner model has no verdict from the outer model either, and
//! its reason names the inner model; [`OrElse`] asks another model instead. The outer model saves
//! and reports the checkpoint states and metrics of its inner models.

/// The methods of a reward model around one `inner` whose metrics and state are those of that model.
macro_rules! state_of_inner {
    () => {
        fn metrics(&self) -> Vec<(String, f64)> {
            self.inner.metrics()
        }

        fn state(&self) -> serde_json::Value {
            self.inner.state()
        }

        fn restore(&self, state: &serde_json::Value) -> Result<(), rlaif_core::RewardError> {
            self.inner.restore(state)
        }
    };
}

mod cached;
mod fallback;
mod gate;
mod kept;
mod many;
mod map;
mod member;
mod normalise;
mod process;

pub use cached::Cached;
pub use fallback::{Constant, OrElse};
pub use gate::Gated;
pub(crate) use kept::Keeping;
pub use many::{
    Combined, CombinedScore, LowerBound, LowestScore, Mean, MeanLessDeviations, MeanOfScores,
    Minimum, OfOneOrMore, SumOfTerms, WeightedSum,
};
pub use map::{Clipped, ClippedTo, Mapped, Scaled, ScaledBy, ScoreMap};
pub use normalise::{Centring, Normalised};
pub use process::{ProcessReward, StepTotal, StepView};

use rlaif_core::RewardModel;

use crate::ProviderError;

/// Combinators as methods of every reward model.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::RewardExt;
/// let length = |batch: &[Exchange<'_>]| -> Vec<f32> {
///     batch.iter().map(|x| x.response.len() as f32).collect()
/// };
/// let reward = length.scaled(0.1, 0.)?.clipped(0., 1.)?;
/// let scores = reward.score(&[Exchange::new("p", "four"), Exchange::new("p", "a good many more")])?;
/// assert_eq!(scores.total.iter().map(|s| s.unwrap().get()).collect::<Vec<_>>(), [0.4, 1.]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait RewardExt: RewardModel + Sized {
    /// `factor` · score + `offset`; see [`Scaled`].
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when a number is not finite.
    fn scaled(self, factor: f32, offset: f32) -> Result<Scaled<Self>, ProviderError> {
        Scaled::new(self, factor, offset)
    }

    /// Clips scores to `low..=high`; see [`Clipped`].
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when `low` is above `high` or a number is not finite.
    fn clipped(self, low: f32, high: f32) -> Result<Clipped<Self>, ProviderError> {
        Clipped::new(self, low, high)
    }

    /// Divides scores by their running standard deviation; see [`Normalised`].
    fn normalised(self, centring: Centring) -> Normalised<Self> {
        Normalised::new(self, centring)
    }

    /// Counts only if `gate` scores at least `threshold`; see [`Gated`].
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when a number is not finite.
    fn only_when<G: RewardModel>(
        self,
        gate: G,
        threshold: f32,
        otherwise: f32,
    ) -> Result<Gated<Self, G>, ProviderError> {
        Gated::new(self, gate, threshold, otherwise)
    }

    /// Asks `other` about rows without a verdict; see [`OrElse`].
    fn or_else<O: RewardModel>(self, other: O) -> OrElse<Self, O> {
        OrElse::new(self, other)
    }

    /// Keeps up to `capacity` verdicts in memory; see [`Cached`].
    fn cached(self, capacity: usize) -> Cached<Self> {
        Cached::new(self, capacity)
    }
}

impl<R: RewardModel> RewardExt for R {}
