//! Functions of one score.

use rlaif_core::{BadSetting, Exchange, RewardError, RewardModel, Scores};

use super::member::{checked, finite, finite_setting};
use crate::ProviderError;

/// a·s + b of another model's score s.
#[derive(Debug, Clone)]
pub struct Scaled<R> {
    inner: R,
    factor: f32,
    offset: f32,
}

impl<R: RewardModel> Scaled<R> {
    /// `factor` · score + `offset`.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when a number is not finite.
    pub fn new(inner: R, factor: f32, offset: f32) -> Result<Self, ProviderError> {
        let factor = finite_setting("factor", factor)?;
        Ok(Self { inner, factor, offset: finite_setting("offset", offset)? })
    }
}

/// Another model's score, clipped to a range.
#[derive(Debug, Clone)]
pub struct Clipped<R> {
    inner: R,
    low: f32,
    high: f32,
}

impl<R: RewardModel> Clipped<R> {
    /// Scores below `low` become `low`, those above `high` become `high`.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when `low` is above `high` or a number is not finite.
    pub fn new(inner: R, low: f32, high: f32) -> Result<Self, ProviderError> {
        let low = finite_setting("low", low)?;
        let high = finite_setting("high", high)?;
        if low > high {
            return Err(ProviderError::Setting(BadSetting::new(
                "low",
                low,
                format!("at most `high`, {high}"),
            )));
        }
        Ok(Self { inner, low, high })
    }
}

fn map(
    inner: &dyn RewardModel,
    batch: &[Exchange<'_>],
    f: impl Fn(f32) -> f32,
) -> Result<Scores, RewardError> {
    let mut scores = checked(inner, batch)?;
    for (row, score) in scores.total.iter_mut().enumerate() {
        if let Some(score) = score {
            *score = finite(f(score.get()), inner.name(), row)?;
        }
    }
    Ok(scores)
}

macro_rules! a_model_that_maps {
    ($model:ident, $self:ident, $f:expr) => {
        impl<R: RewardModel> RewardModel for $model<R> {
            fn name(&self) -> &str {
                self.inner.name()
            }

            fn score(&$self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
                map(&$self.inner, batch, $f)
            }

            fn metrics(&self) -> Vec<(String, f64)> {
                self.inner.metrics()
            }

            fn state(&self) -> serde_json::Value {
                self.inner.state()
            }

            fn restore(&self, state: &serde_json::Value) -> Result<(), RewardError> {
                self.inner.restore(state)
            }
        }
    };
}

a_model_that_maps!(Scaled, self, |s| self.factor * s + self.offset);
a_model_that_maps!(Clipped, self, |s| s.clamp(self.low, self.high));
