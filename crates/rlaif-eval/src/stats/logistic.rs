//! The effect of length on winning.

use crate::EvalError;

/// P(win) = σ(intercept + slope · length after / length before).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logistic {
    /// Log-odds at ratio 0.
    pub intercept: f64,
    /// Increase of the log-odds per unit of ratio.
    pub slope: f64,
}

impl Logistic {
    /// The probability of a win where both responses are equally long.
    pub fn at_equal_length(self) -> f64 {
        sigmoid(self.intercept + self.slope)
    }
}

fn sigmoid(x: f64) -> f64 {
    1. / (1. + (-x).exp())
}

/// Fits wins (0 to 1, 0.5 a tie) to length ratios after / before by maximum likelihood: the
/// regression behind the length-controlled win rate of Lee et al. 2023 (arXiv 2309.00267), read
/// off at ratio 1.
///
/// # Errors
/// [`EvalError::Count`] if there is not one ratio for each win; [`EvalError::NoFit`] where length
/// separates wins from losses, all lengths are alike, or all pairs have the same outcome.
///
/// ```
/// use rlaif_eval::stats::fit_length_effect;
/// let fit = fit_length_effect(&[1., 0., 1., 1., 0., 0.], &[2., 2., 1.5, 1.5, 1., 0.5])?;
/// assert!(fit.slope > 0. && fit.at_equal_length() < 0.5);
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
pub fn fit_length_effect(wins: &[f64], ratios: &[f64]) -> Result<Logistic, EvalError> {
    if wins.len() != ratios.len() {
        return Err(EvalError::Count {
            what: "length ratios".into(),
            expected: wins.len(),
            found: ratios.len(),
        });
    }
    fit_logistic(wins, ratios, &vec![1.; wins.len()], None)
}

/// Newton's method with halved steps, on ratios brought to mean 0 and spread 1.
pub(crate) fn fit_logistic(
    wins: &[f64],
    ratios: &[f64],
    weights: &[f64],
    start: Option<Logistic>,
) -> Result<Logistic, EvalError> {
    let no_fit = |why| EvalError::NoFit { n: wins.len(), why };
    let centre = weighted_mean(ratios, weights);
    let squares: Vec<f64> = ratios.iter().map(|r| (r - centre).powi(2)).collect();
    let spread = weighted_mean(&squares, weights).sqrt();
    // An empty list gives NaN.
    if spread.is_nan() || spread <= 1e-12 * centre.abs() {
        return Err(no_fit("all pairs have the same length ratio"));
    }
    let scaled: Vec<f64> = ratios.iter().map(|r| (r - centre) / spread).collect();
    let loss = |[a, b]: [f64; 2]| -> f64 {
        let rows = wins.iter().zip(&scaled).zip(weights);
        rows.map(|((y, x), w)| {
            let eta = a + b * x;
            w * (eta.max(0.) + (-eta.abs()).exp().ln_1p() - y * eta)
        })
        .sum()
    };
    let total: f64 = weights.iter().sum();
    let mut at = start.map_or([0., 0.], |s| [s.intercept + s.slope * centre, s.slope * spread]);
    let mut height = loss(at);
    for _ in 0..100 {
        let (mut gradient, mut hessian) = ([0.; 2], [0.; 3]);
        for ((y, x), w) in wins.iter().zip(&scaled).zip(weights) {
            let p = sigmoid(at[0] + at[1] * x);
            let (residual, curvature) = (w * (p - y), w * p * (1. - p));
            gradient[0] += residual;
            gradient[1] += residual * x;
            hessian[0] += curvature;
            hessian[1] += curvature * x;
            hessian[2] += curvature * x * x;
        }
        if gradient[0].hypot(gradient[1]) <= 1e-11 * total {
            let slope = at[1] / spread;
            return Ok(Logistic { intercept: at[0] - slope * centre, slope });
        }
        let determinant = hessian[0] * hessian[2] - hessian[1] * hessian[1];
        // On separable data the fit runs off to infinity, where the curvature vanishes.
        if at[0].hypot(at[1]) > 30. || determinant <= 1e-14 * total * total {
            return Err(no_fit(
                "length alone separates wins from losses, or every pair has one outcome",
            ));
        }
        let step = [
            (hessian[2] * gradient[0] - hessian[1] * gradient[1]) / determinant,
            (hessian[0] * gradient[1] - hessian[1] * gradient[0]) / determinant,
        ];
        let mut size = 1.;
        loop {
            let next = [at[0] - size * step[0], at[1] - size * step[1]];
            let lower = loss(next);
            // Near the minimum the loss differs by rounding alone.
            if lower <= height + 1e-12 * height.abs() || size < 1e-6 {
                (at, height) = (next, lower);
                break;
            }
            size /= 2.;
        }
    }
    Err(no_fit("the fit did not settle in 100 steps"))
}

pub(crate) fn weighted_mean(values: &[f64], weights: &[f64]) -> f64 {
    let sum: f64 = values.iter().zip(weights).map(|(v, w)| v * w).sum();
    sum / weights.iter().sum::<f64>()
}
