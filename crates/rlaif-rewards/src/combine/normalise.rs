//! Scores of unit variance, by running moments.

use std::sync::{Mutex, MutexGuard};

use rlaif_core::{Exchange, RewardError, RewardModel, Scores, stats::RunningMoments};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::member::{checked, finite};
use crate::sync::lock;

/// Treatment of the mean of normalised scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Centring {
    /// (s − μ) / σ.
    Centred,
    /// s / σ: the sign of a score keeps its meaning.
    KeepMean,
}

/// Another model's scores divided by their running standard deviation. The statistics include a
/// batch before it is divided, like TRL 0.11's score scaling.
///
/// σ is the sample deviation of all scores so far, this batch included; the divisor is σ + ε with ε
/// = 2⁻²³. The moments are [`RewardModel::state`], so a resumed run continues with them.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::{RewardExt, combine::Centring};
/// let length = |batch: &[Exchange<'_>]| -> Vec<f32> {
///     batch.iter().map(|x| x.response.len() as f32).collect()
/// };
/// let reward = length.normalised(Centring::Centred);
/// let batch = [Exchange::new("p", "1"), Exchange::new("p", "123")];
/// let scores = reward.score(&batch)?;
/// assert!((scores.total[1].unwrap().get() - 0.5_f32.sqrt()).abs() < 1e-6);
/// # Ok::<(), rlaif_core::RewardError>(())
/// ```
#[derive(Debug)]
pub struct Normalised<R> {
    inner: R,
    centring: Centring,
    moments: Mutex<RunningMoments>,
}

impl<R: RewardModel> Normalised<R> {
    /// Normalises `inner`'s scores, with empty statistics.
    pub fn new(inner: R, centring: Centring) -> Self {
        Self { inner, centring, moments: Mutex::default() }
    }

    fn moments(&self) -> MutexGuard<'_, RunningMoments> {
        lock(&self.moments)
    }
}

/// The moments in a checkpoint: the sum of squares M₂, or in older checkpoints the population
/// variance M₂ / n.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Moments {
    count: f64,
    mean: f64,
    squares: Option<f64>,
    variance: Option<f64>,
}

impl Moments {
    /// The moments, if the values are possible.
    fn read(self) -> Option<RunningMoments> {
        let Self { count, mean, squares, variance } = self;
        let squares = match (squares, variance) {
            (Some(squares), None) => squares,
            (None, Some(variance)) => variance * count,
            (Some(_), Some(_)) | (None, None) => return None,
        };
        let sound = count >= 0. && mean.is_finite() && squares >= 0.;
        sound.then_some(RunningMoments { count, mean, squares })
    }
}

/// The state in a checkpoint.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    moments: Moments,
    inner: serde_json::Value,
}

impl<R: RewardModel> RewardModel for Normalised<R> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let mut scores = checked(&self.inner, batch)?;
        let present: Vec<f64> = scores.total.iter().flatten().map(|s| f64::from(s.get())).collect();
        let mut moments = self.moments();
        moments.update(&present);
        let divisor = moments.std() + f64::from(f32::EPSILON);
        let centre = match self.centring {
            Centring::Centred => moments.mean,
            Centring::KeepMean => 0.,
        };
        for (row, score) in scores.total.iter_mut().enumerate() {
            if let Some(score) = score {
                let value = (f64::from(score.get()) - centre) / divisor;
                *score = finite(value as f32, self.inner.name(), row)?;
            }
        }
        Ok(scores)
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        let moments = *self.moments();
        let name = self.name();
        let mut metrics = self.inner.metrics();
        metrics.push((format!("{name}/running_mean"), moments.mean));
        metrics.push((format!("{name}/running_std"), moments.std()));
        metrics
    }

    fn state(&self) -> serde_json::Value {
        let RunningMoments { count, mean, squares } = *self.moments();
        serde_json::json!({
            "moments": {"count": count, "mean": mean, "squares": squares},
            "inner": self.inner.state(),
        })
    }

    fn restore(&self, state: &serde_json::Value) -> Result<(), RewardError> {
        let refused = || RewardError::State {
            model: self.name().to_owned(),
            expected: "the running count, mean and squares of scores".to_owned(),
            found: state.to_string(),
        };
        let State { moments, inner } =
            serde_json::from_value(state.clone()).map_err(|_| refused())?;
        let moments = moments.read().ok_or_else(refused)?;
        self.inner.restore(&inner)?;
        *self.moments() = moments;
        Ok(())
    }
}
