//! Mean, spread and quantiles.

use serde::{Deserialize, Serialize};

/// The mean. NaN for nothing.
///
/// ```
/// assert_eq!(rlaif_eval::stats::mean(&[1., 2., 6.]), 3.);
/// ```
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The quantile at `p` of values in ascending order, interpolated linearly between neighbours:
/// NumPy's default (Hyndman and Fan's seventh). NaN for nothing.
///
/// ```
/// assert_eq!(rlaif_eval::stats::quantile(&[1., 2., 4.], 0.75), 3.);
/// ```
pub fn quantile(ascending: &[f64], p: f64) -> f64 {
    let Some(last) = ascending.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = p.clamp(0., 1.) * last as f64;
    let below = ascending[at.floor() as usize];
    let above = ascending[at.ceil() as usize];
    below + (above - below) * at.fract()
}

/// The distribution of values.
///
/// ```
/// use rlaif_eval::stats::Moments;
/// let m = Moments::of(&[0.1, 0.2, 0.9]);
/// assert!((m.mean - 0.4).abs() < 1e-12 && m.max == 0.9 && m.median == 0.2);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// The mean.
    pub mean: f64,
    /// The population standard deviation: divided by n, as in `numpy.std` and the published
    /// detoxification results.
    pub std: f64,
    /// The minimum.
    pub min: f64,
    /// The median.
    pub median: f64,
    /// The maximum.
    pub max: f64,
}

impl Moments {
    /// The moments of at least one value; all NaN for none.
    pub fn of(values: &[f64]) -> Self {
        let mean = mean(values);
        let mut ascending = values.to_vec();
        ascending.sort_by(f64::total_cmp);
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Self {
            mean,
            std: (squares / values.len() as f64).sqrt(),
            min: quantile(&ascending, 0.),
            median: quantile(&ascending, 0.5),
            max: quantile(&ascending, 1.),
        }
    }
}

/// The standard deviation of the population that the values are a sample of: divided by n − 1.
/// 0 where it is no more than rounding, NaN with a NaN or infinity among the values.
pub(crate) fn sample_std(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let std = (squares / (values.len() as f64 - 1.)).sqrt();
    let largest = values.iter().fold(0f64, |most, v| most.max(v.abs()));
    if std <= 1e-13 * largest { 0. } else { std }
}
