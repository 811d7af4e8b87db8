//! Functions of one score.

use std::ops::ControlFlow;

use rlaif_core::{BadSetting, Exchange, RewardError, RewardModel, Scores, Tell};

use super::member::{checked, finite, finite_setting};
use crate::ProviderError;

/// A function of one score.
pub trait ScoreMap {
    /// The score that replaces this one.
    fn of(&self, score: f32) -> f32;
}

/// Another model's scores, each replaced by a function of it.
#[derive(Debug, Clone)]
pub struct Mapped<R, F> {
    inner: R,
    f: F,
}

/// a·s + b of another model's score s.
pub type Scaled<R> = Mapped<R, ScaledBy>;

/// The function of [`Scaled`].
#[derive(Debug, Clone, Copy)]
pub struct ScaledBy {
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
        let offset = finite_setting("offset", offset)?;
        Ok(Self { inner, f: ScaledBy { factor, offset } })
    }
}

impl ScoreMap for ScaledBy {
    fn of(&self, score: f32) -> f32 {
        self.factor * score + self.offset
    }
}

/// Another model's score, clipped to a range.
pub type Clipped<R> = Mapped<R, ClippedTo>;

/// The function of [`Clipped`].
#[derive(Debug, Clone, Copy)]
pub struct ClippedTo {
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
        Ok(Self { inner, f: ClippedTo { low, high } })
    }
}

impl ScoreMap for ClippedTo {
    fn of(&self, score: f32) -> f32 {
        score.clamp(self.low, self.high)
    }
}

impl<R: RewardModel, F: ScoreMap> Mapped<R, F> {
    /// Scores with each total replaced; `first` is the place of the first row in its batch.
    fn map(&self, mut scores: Scores, first: usize) -> Result<Scores, RewardError> {
        let name = self.inner.name();
        for (row, score) in scores.total.iter_mut().enumerate() {
            if let Some(score) = score {
                *score = finite(self.f.of(score.get()), name, first + row)?;
            }
        }
        for (row, steps) in &mut scores.steps {
            for step in steps {
                step.score = finite(self.f.of(step.score.get()), name, first + *row)?;
            }
        }
        Ok(scores)
    }
}

impl<R: RewardModel, F: ScoreMap + Send> RewardModel for Mapped<R, F> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        self.map(checked(&self.inner, batch)?, 0)
    }

    fn score_each(&self, batch: &[Exchange<'_>], tell: &mut Tell<'_>) -> Result<(), RewardError> {
        let mut failed = None;
        self.inner.score_each(batch, &mut |row, scores| match self.map(scores, row) {
            Ok(scores) => tell(row, scores),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    state_of_inner!();
}
