//! The bootstrap (Efron and Tibshirani 1993): the variation of a mean over samples of prompts.

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use rlaif_core::{BadSetting, Seed};
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

use super::moments::{mean, quantile, sample_std};
use crate::EvalError;

/// A confidence interval; `[low, high]` in files.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "(f64, f64)", into = "(f64, f64)")]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl From<(f64, f64)> for Interval {
    fn from((low, high): (f64, f64)) -> Self {
        Self { low, high }
    }
}

impl From<Interval> for (f64, f64) {
    fn from(interval: Interval) -> Self {
        (interval.low, interval.high)
    }
}

impl Interval {
    /// `true` if `value` lies in the interval, ends included.
    ///
    /// ```
    /// use rlaif_eval::stats::Interval;
    /// assert!(Interval { low: -1., high: 2. }.contains(0.));
    /// ```
    pub fn contains(self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    /// Half the distance between its ends.
    pub fn half_width(self) -> f64 {
        (self.high - self.low) / 2.
    }
}

/// Method that derives an interval from the bootstrap distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntervalMethod {
    /// The quantiles of the distribution.
    Percentile,
    /// The quantiles, corrected for bias and skewness (Efron 1987): closer to the nominal coverage
    /// where a few prompts carry most of the toxicity.
    #[default]
    Bca,
}

/// Column means of `resamples` samples of `values`' rows, drawn with replacement: row r of the
/// result has the means of resample r. Rows are drawn whole, so columns stay paired.
///
/// Resample r depends on `seed` and r alone, regardless of the number of threads.
///
/// ```
/// use ndarray::array;
/// use rlaif_core::Seed;
/// let means = rlaif_eval::stats::resample_means(&array![[0., 1.], [2., 3.]].view(), 100, Seed::new(1));
/// assert_eq!(means.dim(), (100, 2));
/// assert!(means.rows().into_iter().all(|m| m[1] - m[0] == 1.));
/// ```
pub fn resample_means(values: &ArrayView2<'_, f64>, resamples: usize, seed: Seed) -> Array2<f64> {
    // The number of times each row is drawn, times the values: a matrix product, in blocks small
    // enough to stay in the cache and numerous enough to keep all cores busy.
    const BLOCK: usize = 8;
    let (rows, columns) = values.dim();
    let mut means = Array2::zeros((resamples, columns));
    means.axis_chunks_iter_mut(Axis(0), BLOCK).into_par_iter().enumerate().for_each(
        |(block, mut out)| {
            let mut counts = Array2::zeros((out.nrows(), rows));
            for (at, mut row) in counts.rows_mut().into_iter().enumerate() {
                let row = row.as_slice_mut().expect("a fresh array is contiguous");
                count_into(row, seed, block * BLOCK + at);
            }
            out.assign(&(counts.dot(values) / rows as f64));
        },
    );
    means
}

/// Any statistic of `resamples` samples of `rows` rows drawn with replacement. `statistic` gets the
/// number of times each row was drawn. Resample r draws the same rows as in [`resample_means`].
///
/// ```
/// use rlaif_core::Seed;
/// let drawn = rlaif_eval::stats::resample(5, 10, Seed::new(1), |counts| counts.iter().sum::<f64>());
/// assert_eq!(drawn, [5.; 10]);
/// ```
pub fn resample<T: Send>(
    rows: usize,
    resamples: usize,
    seed: Seed,
    statistic: impl Fn(&[f64]) -> T + Sync,
) -> Vec<T> {
    let drawn = (0..resamples).into_par_iter().map(|at| {
        let mut counts = vec![0.; rows];
        count_into(&mut counts, seed, at);
        statistic(&counts)
    });
    drawn.collect()
}

fn count_into(counts: &mut [f64], seed: Seed, resample: usize) {
    let seed = seed.derive("bootstrap", resample as u64).get();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    // Lemire's multiplication maps 32 random bits to a row; its bias, rows / 2^32, is far below
    // what any number of resamples can show.
    let rows = counts.len() as u64;
    let row = |bits: u64| ((bits * rows) >> 32) as usize;
    for _ in 0..rows / 2 {
        let bits = random.next_u64();
        counts[row(bits >> 32)] += 1.;
        counts[row(bits & 0xffff_ffff)] += 1.;
    }
    if rows % 2 == 1 {
        counts[row(random.next_u64() >> 32)] += 1.;
    }
}

/// The interval of a mean, given the `values` it is the mean of and the bootstrap distribution
/// of it, at confidence `level` (0.95, say).
///
/// Agrees with `scipy.stats.bootstrap` on the same distribution. Where all values are alike the
/// interval is that one value.
///
/// # Errors
/// [`EvalError::TooFew`] for fewer than two values or no resample; [`EvalError::Setting`] for a
/// level outside 0 to 1.
///
/// ```
/// use ndarray::{Array2, Axis};
/// use rlaif_core::Seed;
/// use rlaif_eval::stats::{IntervalMethod, interval_of, resample_means};
/// let values: Vec<f64> = (0..100).map(f64::from).collect();
/// let column = Array2::from_shape_vec((100, 1), values.clone()).unwrap();
/// let drawn = resample_means(&column.view(), 2_000, Seed::new(7)).column(0).to_vec();
/// let interval = interval_of(&values, &drawn, 0.95, IntervalMethod::Bca)?;
/// // The normal approximation: 49.5 ± 1.96 · 28.9 / 10.
/// assert!((interval.low - 43.8).abs() < 0.5 && (interval.high - 55.2).abs() < 0.5);
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
pub fn interval_of(
    values: &[f64],
    distribution: &[f64],
    level: f64,
    method: IntervalMethod,
) -> Result<Interval, EvalError> {
    if values.len() < 2 {
        return Err(too_few("a confidence interval", 2, values.len()));
    }
    if distribution.is_empty() {
        return Err(too_few("the bootstrap distribution", 1, 0));
    }
    if !(level > 0. && level < 1.) {
        return Err(EvalError::Setting(BadSetting::new(
            "level",
            level,
            "between 0 and 1, for example 0.95",
        )));
    }
    let alpha = (1. - level) / 2.;
    let (low, high) = match method {
        IntervalMethod::Percentile => (alpha, 1. - alpha),
        IntervalMethod::Bca => bca_levels(values, distribution, alpha),
    };
    let mut ascending = distribution.to_vec();
    ascending.sort_by(f64::total_cmp);
    Ok(Interval { low: quantile(&ascending, low), high: quantile(&ascending, high) })
}

/// Efron and Tibshirani 1993, equations 14.10 (the levels), 14.14 (z0) and 14.15 (a), the latter
/// for a mean, whose jackknife deviations are the deviations of the values.
fn bca_levels(values: &[f64], distribution: &[f64], alpha: f64) -> (f64, f64) {
    let observed = mean(values);
    let deviations = Array1::from_iter(values.iter().map(|v| v - observed));
    let squares = deviations.mapv(|d| d * d).sum();
    let below = distribution.iter().filter(|&&d| d < observed).count();
    let up_to = distribution.iter().filter(|&&d| d <= observed).count();
    // Without spread, or with all resamples on one side, the correction is undefined.
    if sample_std(values) == 0. || up_to == 0 || below == distribution.len() {
        return (alpha, 1. - alpha);
    }
    let acceleration = deviations.mapv(|d| d.powi(3)).sum() / (6. * squares.powf(1.5));
    let normal = Normal::standard();
    let bias = normal.inverse_cdf((below + up_to) as f64 / (2 * distribution.len()) as f64);
    let level = |z: f64| {
        let shifted = bias + z;
        normal.cdf(bias + shifted / (1. - acceleration * shifted))
    };
    let z = normal.inverse_cdf(alpha);
    (level(z), level(-z))
}

fn too_few(what: &str, needed: usize, found: usize) -> EvalError {
    EvalError::TooFew { what: what.to_owned(), needed, found }
}

/// Refuses so few resamples that a 95 % interval would be read off single draws.
pub(crate) fn check_resamples(resamples: usize) -> Result<(), EvalError> {
    if resamples < 100 {
        return Err(EvalError::Setting(BadSetting::new(
            "resamples",
            resamples,
            "at least 100 (1,000 or more for a report)",
        )));
    }
    Ok(())
}
