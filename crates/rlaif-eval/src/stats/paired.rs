//! Tests and effect sizes of paired differences.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};
use statrs::function::beta::beta_reg;

use super::bootstrap::Interval;
use super::moments::{mean, sample_std};
use crate::{Better, EvalError};

/// A test's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedTest {
    /// The test's statistic; none where all differences are alike, which makes it infinite or
    /// undefined.
    pub statistic: Option<f64>,
    /// Probability of a difference at least as large, in either direction, by chance alone.
    pub p: f64,
}

fn at_least_two(what: &str, differences: &[f64]) -> Result<(), EvalError> {
    if differences.len() < 2 {
        return Err(EvalError::TooFew {
            what: what.to_owned(),
            needed: 2,
            found: differences.len(),
        });
    }
    Ok(())
}

/// Student's paired t-test, two-sided, of the differences after − before: `scipy.stats.ttest_rel`.
/// With a NaN or infinity there is no statistic and p is NaN.
///
/// # Errors
/// [`EvalError::TooFew`] for fewer than two differences.
///
/// ```
/// let test = rlaif_eval::stats::paired_t(&[0.1, 0.3, 0.2, 0.4])?;
/// assert!((test.statistic.unwrap() - 3.872_983_346).abs() < 1e-9);
/// assert!((test.p - 0.030_466_291).abs() < 1e-9);
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
pub fn paired_t(differences: &[f64]) -> Result<PairedTest, EvalError> {
    at_least_two("a paired t-test", differences)?;
    let n = differences.len() as f64;
    let (mean, std) = (mean(differences), sample_std(differences));
    if std.is_nan() {
        return Ok(PairedTest { statistic: None, p: f64::NAN });
    }
    if std == 0. {
        return Ok(PairedTest { statistic: None, p: if mean == 0. { 1. } else { 0. } });
    }
    let t = mean / (std / n.sqrt());
    let df = n - 1.;
    // P(|T| > |t|) as an incomplete beta function, which keeps its digits in the far tail.
    let p = beta_reg(df / 2., 0.5, (df / (df + t * t)).clamp(0., 1.));
    Ok(PairedTest { statistic: Some(t), p })
}

/// Student's 95 % interval of a mean: mean ± t · s/√n, t being that of n − 1 degrees of freedom;
/// `scipy.stats.ttest_1samp(x, 0).confidence_interval()`.
///
/// # Errors
/// [`EvalError::TooFew`] for fewer than two values.
///
/// ```
/// let ci = rlaif_eval::stats::mean_t_interval(&[-0.231, -0.198, -0.254])?;
/// assert!((ci.low + 0.297_591_209).abs() < 1e-9 && (ci.high + 0.157_742_125).abs() < 1e-9);
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
pub fn mean_t_interval(values: &[f64]) -> Result<Interval, EvalError> {
    at_least_two("an interval of a mean", values)?;
    let n = values.len() as f64;
    let t = StudentsT::new(0., 1., n - 1.).expect("at least one degree of freedom");
    let half = t.inverse_cdf(0.975) * sample_std(values) / n.sqrt();
    let mean = mean(values);
    Ok(Interval { low: mean - half, high: mean + half })
}

/// Method for the p-value of [`wilcoxon`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WilcoxonMethod {
    /// `Exact` for up to 50 differences without ties or zeros, else `Normal`.
    #[default]
    Auto,
    /// By counting all assignments of signs. Right only without ties and zeros.
    Exact,
    /// By the normal approximation with the correction for ties, without one for continuity.
    Normal,
}

/// Wilcoxon's signed-rank test, two-sided, of the differences after − before; zeros are left
/// out. The statistic is the smaller sum of ranks. `scipy.stats.wilcoxon` with its defaults,
/// except that SciPy permutes up to 13 differences with ties, where this takes the normal
/// approximation. With a NaN, which has no rank, there is no statistic and p is NaN.
///
/// # Errors
/// [`EvalError::TooFew`] for fewer than two differences.
///
/// ```
/// use rlaif_eval::stats::{WilcoxonMethod, wilcoxon};
/// let test = wilcoxon(&[0.1, 0.3, -0.2, 0.4, 0.5], WilcoxonMethod::Auto)?;
/// assert_eq!(test.statistic, Some(2.));
/// assert!((test.p - 6. / 32.).abs() < 1e-12);
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
pub fn wilcoxon(differences: &[f64], method: WilcoxonMethod) -> Result<PairedTest, EvalError> {
    at_least_two("Wilcoxon's test", differences)?;
    if differences.iter().any(|d| d.is_nan()) {
        return Ok(PairedTest { statistic: None, p: f64::NAN });
    }
    let mut signed: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.).collect();
    if signed.is_empty() {
        return Ok(PairedTest { statistic: None, p: 1. });
    }
    signed.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let n = signed.len() as f64;
    let (mut plus, mut ties) = (0., 0.);
    let mut first_rank = 1.;
    for group in signed.chunk_by(|a, b| a.abs() == b.abs()) {
        let size = group.len() as f64;
        let rank = first_rank + (size - 1.) / 2.;
        plus += rank * group.iter().filter(|d| **d > 0.).count() as f64;
        ties += size.powi(3) - size;
        first_rank += size;
    }
    let statistic = plus.min(n * (n + 1.) / 2. - plus);
    let exact = match method {
        WilcoxonMethod::Exact => true,
        WilcoxonMethod::Normal => false,
        WilcoxonMethod::Auto => {
            ties == 0. && signed.len() == differences.len() && signed.len() <= 50
        }
    };
    let p = if exact {
        // The larger side of a tie: conservative, as in SciPy.
        (2. * signed_rank_cdf(signed.len(), statistic.ceil() as usize)).min(1.)
    } else {
        let variance = (n * (n + 1.) * (2. * n + 1.) - ties / 2.) / 24.;
        let z = (statistic - n * (n + 1.) / 4.) / variance.sqrt();
        (2. * Normal::standard().cdf(z)).min(1.)
    };
    Ok(PairedTest { statistic: Some(statistic), p })
}

/// P(W ≤ w) where each of the ranks 1 to n counts or not with even odds.
fn signed_rank_cdf(n: usize, w: usize) -> f64 {
    let most = n * (n + 1) / 2;
    let mut probability = vec![0.; most + 1];
    probability[0] = 1.;
    for rank in 1..=n {
        for sum in (0..=most).rev() {
            let with = if sum >= rank { probability[sum - rank] } else { 0. };
            probability[sum] = (probability[sum] + with) / 2.;
        }
    }
    probability.iter().take(w + 1).sum()
}

/// Cohen's d of paired differences: their mean over their standard deviation (of the sample).
/// None where all differences are alike.
///
/// By custom 0.2 is small, 0.5 medium and 0.8 large.
///
/// # Errors
/// [`EvalError::TooFew`] for fewer than two differences.
///
/// ```
/// assert_eq!(rlaif_eval::stats::cohen_dz(&[1., 2., 3.])?, Some(2.));
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
pub fn cohen_dz(differences: &[f64]) -> Result<Option<f64>, EvalError> {
    at_least_two("an effect size", differences)?;
    let std = sample_std(differences);
    Ok((std > 0.).then(|| mean(differences) / std))
}

/// Improvement of `after` on `before`, in per cent: (before − after) / |before| · 100 where less is
/// better, with the opposite sign where more is better, and the plain change where neither is.
/// `None` if `before` is 0.
///
/// For toxicity, this is the number that detoxification tutorials print.
///
/// ```
/// use rlaif_eval::{Better, stats::improvement_percent};
/// assert_eq!(improvement_percent(0.04, 0.03, Better::Lower).map(f64::round), Some(25.));
/// assert_eq!(improvement_percent(0., 0.03, Better::Lower), None);
/// ```
pub fn improvement_percent(before: f64, after: f64, better: Better) -> Option<f64> {
    let change = (after - before) / before.abs() * 100.;
    let improvement = match better {
        Better::Lower => -change,
        Better::Higher | Better::Neither => change,
    };
    improvement.is_finite().then_some(improvement)
}
