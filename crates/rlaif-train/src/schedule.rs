//! Learning-rate schedules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Schedule of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Constant.
    #[default]
    Constant,
    /// Linear decay to 0 at the end of the run.
    Linear,
    /// Cosine decay to 0 at the end of the run.
    Cosine,
}

impl Schedule {
    /// The factor of the learning rate in `step` of `total`, both counted from 0, after `warmup`
    /// steps of linear increase:
    ///
    /// ```text
    /// s < w:  (s + 1) / w
    /// else:   1,   1 − u,   or   (1 + cos πu) / 2     with u = (s − w) / (total − w)
    /// ```
    ///
    /// After warm-up these are transformers' schedules. Their warm-up is `s / w`, so that the first
    /// step changes nothing; this one begins at `1 / w`.
    ///
    /// ```
    /// use rlaif_train::Schedule;
    /// let rates: Vec<f64> = (0..6).map(|s| Schedule::Linear.factor(s, 2, 6)).collect();
    /// assert_eq!(rates, [0.5, 1., 1., 0.75, 0.5, 0.25]);
    /// ```
    #[must_use]
    pub fn factor(self, step: u64, warmup: u64, total: u64) -> f64 {
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let left = total.saturating_sub(warmup).max(1);
        let u = ((step - warmup) as f64 / left as f64).min(1.);
        match self {
            Self::Constant => 1.,
            Self::Linear => 1. - u,
            Self::Cosine => 0.5 * (1. + (std::f64::consts::PI * u).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // transformers.get_linear_schedule_with_warmup and get_cosine_schedule_with_warmup with 4
    // steps of warm-up and 10 in all, from step 4 on.
    #[test]
    fn after_warm_up_the_rates_are_those_of_transformers() {
        let linear = [1., 0.833333, 0.666667, 0.5, 0.333333, 0.166667, 0.];
        let cosine = [1., 0.933013, 0.75, 0.5, 0.25, 0.066987, 0.];
        for (i, (linear, cosine)) in linear.into_iter().zip(cosine).enumerate() {
            let step = 4 + i as u64;
            assert!((Schedule::Linear.factor(step, 4, 10) - linear).abs() < 1e-6);
            assert!((Schedule::Cosine.factor(step, 4, 10) - cosine).abs() < 1e-6);
            assert_eq!(Schedule::Constant.factor(step, 4, 10), 1.);
        }
    }

    #[test]
    fn a_run_longer_than_planned_or_all_warm_up_stays_in_range() {
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
            for (step, warmup, total) in [(99, 0, 10), (5, 10, 10), (10, 10, 10), (0, 0, 0)] {
                let factor = schedule.factor(step, warmup, total);
                assert!((0. ..=1.).contains(&factor), "{schedule:?} {factor}");
            }
        }
    }
}
