//! A score that counts only if another score is high enough.

use std::ops::ControlFlow;

use rlaif_core::{BadSetting, Exchange, RewardError, RewardModel, Score, Scores, Tell};

use super::member::{checked, finite_setting, joined_state, restore_joined};
use crate::ProviderError;

/// A model's score if the gate's score reaches a threshold, otherwise a fixed score. Example:
/// helpfulness counts only if the response is harmless.
///
/// The model is asked only about responses that pass, so a cheap gate saves calls of an
/// expensive judge.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::{Gated, Length, Words};
/// let helpful = |batch: &[Exchange<'_>]| vec![2.; batch.len()];
/// let reward = Gated::new(helpful, Words::forbidden(["darn"])?, 0., -1.)?;
/// let scores = reward.score(&[Exchange::new("p", "Fine."), Exchange::new("p", "Darn!")])?;
/// assert_eq!(scores.total[0].unwrap().get(), 2.);
/// assert_eq!(scores.total[1].unwrap().get(), -1.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Gated<R, G> {
    inner: R,
    gate: G,
    threshold: f32,
    otherwise: Score,
}

impl<R: RewardModel, G: RewardModel> Gated<R, G> {
    /// `inner`'s score if `gate`'s is at least `threshold`, else `otherwise`.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when a number is not finite.
    pub fn new(inner: R, gate: G, threshold: f32, otherwise: f32) -> Result<Self, ProviderError> {
        let threshold = finite_setting("threshold", threshold)?;
        let otherwise = Score::new(otherwise).map_err(|_| {
            ProviderError::Setting(BadSetting::new("otherwise", otherwise, "a finite number"))
        })?;
        Ok(Self { inner, gate, threshold, otherwise })
    }
}

impl<R: RewardModel, G: RewardModel> RewardModel for Gated<R, G> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let gate = checked(&self.gate, batch)?;
        let passes = |row: &usize| gate.total[*row].is_some_and(|s| s.get() >= self.threshold);
        let passed: Vec<usize> = (0..batch.len()).filter(passes).collect();
        let asked: Vec<Exchange<'_>> = passed.iter().map(|&row| batch[row]).collect();
        let inner = checked(&self.inner, &asked).map_err(|error| error.among(&passed))?;
        Ok(self.joined(gate, inner, &passed))
    }

    fn score_each(&self, batch: &[Exchange<'_>], tell: &mut Tell<'_>) -> Result<(), RewardError> {
        let mut passed = Vec::new();
        let mut ended = false;
        self.gate.score_each(batch, &mut |row, gate| {
            let score = gate.total.first().copied().flatten();
            if score.is_some_and(|score| score.get() >= self.threshold) {
                passed.push((row, gate));
                return ControlFlow::Continue(());
            }
            let step = tell(row, self.joined(gate, Scores::default(), &[]));
            ended |= step.is_break();
            step
        })?;
        if ended || passed.is_empty() {
            return Ok(());
        }
        let rows: Vec<usize> = passed.iter().map(|(row, _)| *row).collect();
        let asked: Vec<Exchange<'_>> = rows.iter().map(|&row| batch[row]).collect();
        let scored = self.inner.score_each(&asked, &mut |at, inner| {
            let (row, gate) = &passed[at];
            tell(*row, self.joined(gate.clone(), inner, &[0]))
        });
        scored.map_err(|error| error.among(&rows))
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        [self.inner.metrics(), self.gate.metrics()].concat()
    }

    fn state(&self) -> serde_json::Value {
        joined_state([&self.inner as &dyn RewardModel, &self.gate])
    }

    fn restore(&self, state: &serde_json::Value) -> Result<(), RewardError> {
        restore_joined(self.name(), &[&self.inner, &self.gate], state)
    }
}

impl<R: RewardModel, G: RewardModel> Gated<R, G> {
    /// The scores of rows that the gate judged, and of those that passed.
    fn joined(&self, gate: Scores, inner: Scores, passed: &[usize]) -> Scores {
        let mut scores = inner.scatter(passed, gate.total.len());
        for (row, score) in gate.total.iter().enumerate() {
            if passed.binary_search(&row).is_err() {
                // A row the gate cannot judge is neither good nor bad.
                scores.total[row] = score.map(|_| self.otherwise);
            }
        }
        let name = self.gate.name();
        let named = |(row, reason)| (row, format!("{name}: {reason}"));
        scores.reasons.extend(gate.reasons.into_iter().map(named));
        scores.reasons.sort();
        let inside = gate.parts.into_iter().map(|(part, c)| (format!("gate {name}/{part}"), c));
        let of_gate = std::iter::once((format!("gate {name}"), gate.total)).chain(inside);
        scores.parts.splice(..0, of_gate);
        scores
    }
}
