//! The statistics of paired comparisons, as pure functions of numbers.
//!
//! Everything here takes finite numbers; [`Evaluation`](crate::Evaluation) sees to it.

mod agreement;
mod bootstrap;
mod logistic;
mod moments;
mod paired;
mod power;
mod strengths;

pub use agreement::{
    Calibration, CalibrationBin, Level, calibration, cohen_kappa, fleiss_kappa, krippendorff_alpha,
};
pub(crate) use bootstrap::check_resamples;
pub use bootstrap::{Interval, IntervalMethod, interval_of, resample, resample_means};
pub use logistic::{Logistic, fit_length_effect};
pub(crate) use logistic::{fit_logistic, weighted_mean};
pub(crate) use moments::sample_std;
pub use moments::{Moments, mean, quantile};
pub use paired::{
    PairedTest, WilcoxonMethod, cohen_dz, improvement_percent, mean_t_interval, paired_t, wilcoxon,
};
pub(crate) use power::is_clear;
pub use power::{Advice, advise};
pub use strengths::{NoStrengths, Strength, bradley_terry};
