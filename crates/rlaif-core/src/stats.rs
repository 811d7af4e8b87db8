//! Statistics that several crates need: mean and spread, running moments, the interval of a share.

use serde::{Deserialize, Serialize};

/// The 97.5 % quantile of the standard normal distribution.
const Z_95: f64 = 1.959_963_984_540_054;

/// Returns the 95 % interval of a share seen in `n` trials, within [0, 1]: the score interval of
/// [Wilson 1927](https://doi.org/10.1080/01621459.1927.10502953), which holds at 0 and 1 too.
///
/// Without trials, or with a share that is NaN, nothing is known: (0, 1).
///
/// ```
/// let (low, high) = rlaif_core::stats::wilson(0.9, 10);
/// assert!((low - 0.5958).abs() < 1e-4 && (high - 0.9821).abs() < 1e-4);
/// assert_eq!(rlaif_core::stats::wilson(f64::NAN, 0), (0., 1.));
/// ```
#[must_use]
pub fn wilson(share: f64, n: usize) -> (f64, f64) {
    if n == 0 || share.is_nan() {
        return (0., 1.);
    }
    let (share, n) = (share.clamp(0., 1.), n as f64);
    let scale = 1. + Z_95 * Z_95 / n;
    let centre = (share + Z_95 * Z_95 / (2. * n)) / scale;
    let half = Z_95 * (share * (1. - share) / n + Z_95 * Z_95 / (4. * n * n)).sqrt() / scale;
    ((centre - half).max(0.), (centre + half).min(1.))
}

/// Returns mean and standard deviation with Bessel's correction.
///
/// The deviation of a single value is 0. Both are NaN without values, or with a NaN among them.
///
/// ```
/// let (mean, std) = rlaif_core::stats::mean_std(&[1., 3.]);
/// assert_eq!((mean, std), (2., 2f64.sqrt()));
/// ```
#[must_use]
pub fn mean_std(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() == 1 {
        return (mean, if mean.is_nan() { mean } else { 0. });
    }
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (n - 1.)).sqrt())
}

/// Mean and spread of every score so far, merged batch by batch
/// ([Chan et al. 1979](http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf)):
/// with δ the difference of the means, `M₂ ← M₂ + M₂,batch + δ² n n_batch / (n + n_batch)`.
///
/// Scores must be finite: a NaN or infinity among them makes mean and spread NaN from then on.
///
/// ```
/// let mut moments = rlaif_core::stats::RunningMoments::default();
/// moments.update(&[1., 2.]);
/// moments.update(&[3., 4.]);
/// assert_eq!(moments.mean, 2.5);
/// assert!((moments.std() - (5f64 / 3.).sqrt()).abs() < 1e-12);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RunningMoments {
    /// Number of scores.
    pub count: f64,
    /// The mean.
    pub mean: f64,
    /// The sum of their squared distances from the mean, M₂.
    pub squares: f64,
}

impl RunningMoments {
    /// Adds a batch of scores.
    pub fn update(&mut self, batch: &[f64]) {
        if batch.is_empty() {
            return;
        }
        let n = batch.len() as f64;
        let mean = batch.iter().sum::<f64>() / n;
        let squares: f64 = batch.iter().map(|x| (x - mean).powi(2)).sum();
        let total = self.count + n;
        let delta = mean - self.mean;
        self.squares += squares + delta * delta * self.count * n / total;
        self.mean += delta * n / total;
        self.count = total;
    }

    /// Standard deviation with Bessel's correction; 1 with fewer than two scores, which do not
    /// determine it.
    #[must_use]
    pub fn std(&self) -> f64 {
        if self.count < 2. { 1. } else { (self.squares / (self.count - 1.)).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_interval_stays_within_0_and_1_and_takes_any_number() {
        for n in [1, 2, 7, 1_000_000] {
            for share in [0., 1e-300, 0.5, 1., -0.1, 1.1, f64::INFINITY, f64::NEG_INFINITY] {
                let (low, high) = wilson(share, n);
                assert!(0. <= low && low < high && high <= 1., "{share} of {n}: {low} {high}");
            }
        }
        assert_eq!(wilson(0.3, 0), (0., 1.));
        assert_eq!(wilson(f64::NAN, 9), (0., 1.));
        // Brown, Cai and DasGupta 2001: at 0 of n the interval is (0, z²/(n + z²)).
        let (low, high) = wilson(0., 10);
        assert!(low == 0. && (high - Z_95 * Z_95 / (10. + Z_95 * Z_95)).abs() < 1e-15);
    }

    #[test]
    fn mean_and_deviation_of_few_or_wrong_values() {
        let (mean, std) = mean_std(&[]);
        assert!(mean.is_nan() && std.is_nan());
        assert_eq!(mean_std(&[3.]), (3., 0.));
        let (mean, std) = mean_std(&[1., f64::NAN]);
        assert!(mean.is_nan() && std.is_nan());
        let (mean, std) = mean_std(&[1., f64::INFINITY]);
        assert!(mean.is_infinite() && std.is_nan());
    }

    proptest! {
        #[test]
        fn running_moments_are_those_of_all_scores_together(
            batches in prop::collection::vec(prop::collection::vec(-50f64..50., 1..9), 1..6)
        ) {
            let mut moments = RunningMoments::default();
            for batch in &batches {
                moments.update(batch);
            }
            let all: Vec<f64> = batches.concat();
            let n = all.len() as f64;
            let mean = all.iter().sum::<f64>() / n;
            prop_assert!((moments.mean - mean).abs() < 1e-9 * (1. + mean.abs()));
            if all.len() > 1 {
                let var = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.);
                prop_assert!((moments.std() - var.sqrt()).abs() < 1e-7 * (1. + var.sqrt()));
            }
        }
    }
}
