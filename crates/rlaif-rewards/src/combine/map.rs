//! Functions of one score.

use std::ops::ControlFlow;

use rlaif_core::{BadSetting, Exchange, RewardError, RewardModel, Scores, Tell};

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

/// Scores with `f` of each total; `first` is the place of the first row in its batch.
fn map(
    mut scores: Scores,
    first: usize,
    name: &str,
    f: impl Fn(f32) -> f32,
) -> Result<Scores, RewardError> {
    for (row, score) in scores.total.iter_mut().enumerate() {
        if let Some(score) = score {
            *score = finite(f(score.get()), name, first + row)?;
        }
    }
    for (row, steps) in &mut scores.steps {
        for step in steps {
            step.score = finite(f(step.score.get()), name, first + *row)?;
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
                map(checked(&$self.inner, batch)?, 0, $self.inner.name(), $f)
            }

            fn score_each(
                &$self,
                batch: &[Exchange<'_>],
                tell: &mut Tell<'_>,
            ) -> Result<(), RewardError> {
                let mut failed = None;
                let name = $self.inner.name();
                $self.inner.score_each(batch, &mut |row, scores| {
                    match map(scores, row, name, $f) {
                        Ok(scores) => tell(row, scores),
                        Err(error) => {
                            failed = Some(error);
                            ControlFlow::Break(())
                        }
                    }
                })?;
                failed.map_or(Ok(()), Err)
            }

            state_of_inner!();
        }
    };
}

a_model_that_maps!(Scaled, self, |s| self.factor * s + self.offset);
a_model_that_maps!(Clipped, self, |s| s.clamp(self.low, self.high));
