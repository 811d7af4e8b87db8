//! Number of prompts that an evaluation needs.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

use super::bootstrap::Interval;
use super::moments::{mean, sample_std};
use super::paired::{PairedTest, paired_t};
use crate::EvalError;

/// Advice on the number of prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Advice {
    /// The difference is clear and its interval narrow: at most half the difference either way.
    Enough,
    /// The difference is clear, but the size of the difference is known only roughly.
    Rough {
        /// Prompts at which the interval would reach half the difference either way.
        prompts: u64,
    },
    /// The interval includes zero, or the t-test finds p ≥ 0.05.
    Unclear {
        /// Prompts at which a difference as large as this one would show in four of five
        /// evaluations. None where no difference was seen at all.
        prompts: Option<u64>,
        /// The difference that this many prompts would have shown in four of five evaluations.
        detectable: f64,
    },
}

/// `true` if there is a difference, both by its `interval` and by the t-test. Where one prompt
/// carries nearly all of a difference, a bootstrap interval may end just short of zero.
pub(crate) fn is_clear(interval: Interval, t_test: PairedTest) -> bool {
    !interval.contains(0.) && t_test.p < 0.05
}

/// Advice on the width of a 95 % `interval` of the mean of `differences`.
///
/// By the normal approximation: n = (z₀.₉₇₅ + z₀.₈)² s² / d² to detect a difference d, and
/// n = z₀.₉₇₅² s² / (d/2)² to know it within d/2, s being the differences' standard deviation.
///
/// # Errors
/// [`EvalError::TooFew`] for fewer than two differences.
///
/// ```
/// use rlaif_eval::stats::{Advice, Interval, advise};
/// let differences = [1., -1., 1., -1., 1., -1., 1., 1.];
/// let advice = advise(&differences, Interval { low: -0.5, high: 1. })?;
/// assert!(matches!(advice, Advice::Unclear { prompts: Some(135), .. }), "{advice:?}");
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
pub fn advise(differences: &[f64], interval: Interval) -> Result<Advice, EvalError> {
    if differences.len() < 2 {
        return Err(EvalError::TooFew {
            what: "advice on the number of prompts".into(),
            needed: 2,
            found: differences.len(),
        });
    }
    let normal = Normal::standard();
    let (confidence, power) = (normal.inverse_cdf(0.975), normal.inverse_cdf(0.8));
    let (difference, std) = (mean(differences).abs(), sample_std(differences));
    let prompts = |z: f64, within: f64| (z * std / within).powi(2).ceil() as u64;
    let clear = is_clear(interval, paired_t(differences)?);
    Ok(if !clear && std > 0. {
        Advice::Unclear {
            prompts: (difference > 0.).then(|| prompts(confidence + power, difference)),
            detectable: (confidence + power) * std / (differences.len() as f64).sqrt(),
        }
    } else if !clear {
        // All differences are zero: the two sides are the same, and no number of prompts helps. Or
        // some are NaN, and so is the spread.
        Advice::Unclear { prompts: None, detectable: std }
    } else if interval.half_width() > difference / 2. {
        Advice::Rough { prompts: prompts(confidence, difference / 2.) }
    } else {
        Advice::Enough
    })
}
