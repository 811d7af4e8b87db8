//! A second model where the first has no verdict.

use std::ops::ControlFlow;

use rlaif_core::{BadSetting, Exchange, RewardError, RewardModel, Score, Scores, Tell};

use super::member::{checked, joined_state, restore_joined};
use crate::ProviderError;

/// The first model's verdicts, and the second's for rows on which the first has none.
///
/// If the first model fails for all rows (no network, wrong key), that is an error: a training
/// run must not change its reward unnoticed.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::{Constant, Overlap, RewardExt};
/// // Only the first row has a reference to compare with.
/// let reward = Overlap::rouge_l().or_else(Constant::new(0.5)?);
/// let first = Exchange { reference: Some("a b"), ..Exchange::new("p", "a b") };
/// let scores = reward.score(&[first, Exchange::new("p", "a b")])?;
/// assert_eq!(scores.total[0].unwrap().get(), 1.);
/// assert_eq!(scores.total[1].unwrap().get(), 0.5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct OrElse<R, O> {
    first: R,
    other: O,
}

impl<R: RewardModel, O: RewardModel> OrElse<R, O> {
    /// Uses `first`, and `other` for rows on which `first` has no verdict.
    pub fn new(first: R, other: O) -> Self {
        Self { first, other }
    }
}

impl<R: RewardModel, O: RewardModel> RewardModel for OrElse<R, O> {
    fn name(&self) -> &str {
        self.first.name()
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let mut scores = checked(&self.first, batch)?;
        let open: Vec<usize> =
            (0..batch.len()).filter(|&row| scores.total[row].is_none()).collect();
        if open.is_empty() {
            return Ok(scores);
        }
        let asked: Vec<Exchange<'_>> = open.iter().map(|&row| batch[row]).collect();
        let mut other = checked(&self.other, &asked).map_err(|error| error.among(&open))?;
        for (_, reason) in &mut other.reasons {
            *reason = format!("{}: {reason}", self.other.name());
        }
        scores.fill_from(other, &open);
        Ok(scores)
    }

    fn score_each(&self, batch: &[Exchange<'_>], tell: &mut Tell<'_>) -> Result<(), RewardError> {
        let mut open = Vec::new();
        let mut ended = false;
        self.first.score_each(batch, &mut |row, scores| {
            if scores.total.first().copied().flatten().is_none() {
                open.push((row, scores));
                return ControlFlow::Continue(());
            }
            let step = tell(row, scores);
            ended |= step.is_break();
            step
        })?;
        if ended || open.is_empty() {
            return Ok(());
        }
        let rows: Vec<usize> = open.iter().map(|(row, _)| *row).collect();
        let asked: Vec<Exchange<'_>> = rows.iter().map(|&row| batch[row]).collect();
        let scored = self.other.score_each(&asked, &mut |at, mut other| {
            for (_, reason) in &mut other.reasons {
                *reason = format!("{}: {reason}", self.other.name());
            }
            let (row, first) = &open[at];
            let mut scores = first.clone();
            scores.fill_from(other, &[0]);
            tell(*row, scores)
        });
        scored.map_err(|error| error.among(&rows))
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        [self.first.metrics(), self.other.metrics()].concat()
    }

    fn state(&self) -> serde_json::Value {
        joined_state([&self.first as &dyn RewardModel, &self.other])
    }

    fn restore(&self, state: &serde_json::Value) -> Result<(), RewardError> {
        restore_joined(self.name(), &[&self.first, &self.other], state)
    }
}

/// The same score for every response, for example as the fallback of an [`OrElse`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constant(Score);

impl Constant {
    /// Always gives a score of `value`.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when it is not finite.
    pub fn new(value: f32) -> Result<Self, ProviderError> {
        Score::new(value).map(Self).map_err(|_| {
            ProviderError::Setting(BadSetting::new("constant", value, "a finite number"))
        })
    }
}

impl RewardModel for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        Ok(Scores::new(vec![Some(self.0); batch.len()]))
    }
}
