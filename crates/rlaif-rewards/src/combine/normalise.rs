//! Scores of unit variance, by moments that run along with the training.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rlaif_core::{Exchange, RewardError, RewardModel, Scores};
use serde::{Deserialize, Serialize};

use super::{checked, finite};

/// Whether normalised scores keep their mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Centring {
    /// (s − μ) / σ.
    Centred,
    /// s / σ: the sign of a score keeps its meaning.
    KeepMean,
}

/// Running count, mean and variance of all scores so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Moments {
    count: f64,
    mean: f64,
    /// Population variance.
    variance: f64,
}

impl Moments {
    /// Chan, Golub and LeVeque's update by a batch:
    /// δ = μ_b − μ, μ ← μ + δ·n_b/N, M₂ ← M₂ + M₂_b + δ²·n·n_b/N, N = n + n_b.
    fn update(self, batch: &[f64]) -> Self {
        if batch.is_empty() {
            return self;
        }
        let n = batch.len() as f64;
        let mean = batch.iter().sum::<f64>() / n;
        let m2: f64 = batch.iter().map(|s| (s - mean).powi(2)).sum();
        let count = self.count + n;
        let delta = mean - self.mean;
        let m2 = self.variance * self.count + m2 + delta * delta * self.count * n / count;
        Self { count, mean: self.mean + delta * n / count, variance: m2 / count }
    }

    /// The sample standard deviation; 1 while there are not two scores to tell it from.
    fn std(self) -> f64 {
        if self.count < 2. {
            return 1.;
        }
        (self.variance * self.count / (self.count - 1.)).sqrt()
    }
}

/// Another model's scores over their running standard deviation, each batch counted before it is
/// divided: TRL 0.11's score scaling.
///
/// σ is the sample deviation of all scores so far, this batch included; the divisor is σ + ε with
/// ε = 2⁻²³. The moments are [`RewardModel::state`], so a resumed run goes on with them.
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
    moments: Mutex<Moments>,
}

impl<R: RewardModel> Normalised<R> {
    /// `inner`'s scores, normalised from now on.
    pub fn new(inner: R, centring: Centring) -> Self {
        let moments = Mutex::new(Moments { count: 0., mean: 0., variance: 1. });
        Self { inner, centring, moments }
    }

    fn moments(&self) -> MutexGuard<'_, Moments> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a checkpoint holds.
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
        *moments = moments.update(&present);
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
        let Moments { count, mean, variance } = *self.moments();
        serde_json::json!({
            "moments": {"count": count, "mean": mean, "variance": variance},
            "inner": self.inner.state(),
        })
    }

    fn restore(&self, state: &serde_json::Value) -> Result<(), RewardError> {
        let refused = || RewardError::State {
            model: self.name().to_owned(),
            expected: "the running count, mean and variance of scores".to_owned(),
            found: state.to_string(),
        };
        let State { moments, inner } =
            serde_json::from_value(state.clone()).map_err(|_| refused())?;
        if !(moments.count >= 0. && moments.mean.is_finite() && moments.variance >= 0.) {
            return Err(refused());
        }
        self.inner.restore(&inner)?;
        *self.moments() = moments;
        Ok(())
    }
}
