//! Reward models made of reward models.
//!
//! A row that an inner model leaves without a verdict stays without one, and its reason names the
//! model, unless [`OrElse`] gives another model the word. Checkpoint states and metrics of inner
//! models are kept and reported by the outer one.

mod cached;
mod fallback;
mod gate;
mod many;
mod map;
mod normalise;

pub use cached::Cached;
pub use fallback::{Constant, OrElse};
pub use gate::Gated;
pub use many::{Mean, Minimum, WeightedSum};
pub use map::{Clipped, Scaled};
pub use normalise::{Centring, Normalised};

use rlaif_core::{Exchange, NonFinite, RewardError, RewardModel, Score, Scores};

use crate::ProviderError;

/// Combinators as methods, on every reward model.
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

    /// Scores outside `low..=high` moved to the nearer end; see [`Clipped`].
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when `low` is above `high` or a number is not finite.
    fn clipped(self, low: f32, high: f32) -> Result<Clipped<Self>, ProviderError> {
        Clipped::new(self, low, high)
    }

    /// Divided by their running standard deviation; see [`Normalised`].
    fn normalised(self, centring: Centring) -> Normalised<Self> {
        Normalised::new(self, centring)
    }

    /// Counts only where `gate` scores at least `threshold`; see [`Gated`].
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

    /// Asks `other` where this one has no verdict; see [`OrElse`].
    fn or_else<O: RewardModel>(self, other: O) -> OrElse<Self, O> {
        OrElse::new(self, other)
    }

    /// Remembers up to `capacity` verdicts; see [`Cached`].
    fn cached(self, capacity: usize) -> Cached<Self> {
        Cached::new(self, capacity)
    }
}

impl<R: RewardModel> RewardExt for R {}

/// Scores, checked for their number.
fn checked(model: &dyn RewardModel, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
    model.score(batch)?.check(model.name(), batch.len())
}

fn finite(value: f32, model: &str, row: usize) -> Result<Score, RewardError> {
    Score::new(value).map_err(|source: NonFinite| RewardError::NonFinite {
        model: model.to_owned(),
        row,
        source,
    })
}

fn finite_setting(setting: &'static str, value: f32) -> Result<f32, ProviderError> {
    if value.is_finite() {
        return Ok(value);
    }
    Err(ProviderError::Setting {
        setting,
        expected: "a finite number".to_owned(),
        found: value.to_string(),
    })
}

/// The state of several members: an array in their order, or null when none has any.
fn joined_state<'a>(members: impl IntoIterator<Item = &'a dyn RewardModel>) -> serde_json::Value {
    let states: Vec<_> = members.into_iter().map(RewardModel::state).collect();
    if states.iter().all(serde_json::Value::is_null) {
        return serde_json::Value::Null;
    }
    serde_json::Value::Array(states)
}

/// The inverse of [`joined_state`].
fn restore_joined(
    name: &str,
    members: &[&dyn RewardModel],
    state: &serde_json::Value,
) -> Result<(), RewardError> {
    if state.is_null() {
        return members.iter().try_for_each(|member| member.restore(state));
    }
    let found = state.as_array().filter(|states| states.len() == members.len());
    let Some(states) = found else {
        return Err(RewardError::State {
            model: name.to_owned(),
            expected: format!("a list of {} states, one per part", members.len()),
            found: state.to_string(),
        });
    };
    members.iter().zip(states).try_for_each(|(member, state)| member.restore(state))
}
