//! Did it get better, by how much, and how sure are we.

mod compare;
mod error;
mod evaluation;
mod files;
mod journal;
pub mod likelihood;
mod metric;
mod pair;
mod preference;
mod reading;
mod report;
mod slice;
pub mod stats;
pub mod text;
pub mod toxicity;
mod tradeoff;

pub use compare::{
    CompareOptions, Comparison, Delta, Histogram, Missing, OverOptimisation, Row, SampleRow,
    SetNumber, Side, Slice, SliceRow, Verdict,
};
pub use error::EvalError;
pub use evaluation::{About, Column, Evaluation, Measurement, Progress};
pub use metric::{Better, Metric, MetricInfo, Reads, RewardMetric, Values};
pub use preference::{
    PairJudge, Pairing, PreferenceAccuracy, ScoreJudge, WinRate, WinRateOptions,
    preference_accuracy, win_rate,
};
pub use report::{Curve, Details, ModelCard, Report, Timing, read_curves};
pub use slice::SliceBy;
pub use tradeoff::{Aim, Candidate, Estimate, Role, Standing, TradeOff};
