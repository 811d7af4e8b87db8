//! Did it get better, by how much, how sure are we, and at what cost.
//!
//! The responses of one policy are measured ([`Measurement`]) and become an [`Evaluation`]; two of
//! them, on the same held-out prompts, become a [`Comparison`]; that becomes a [`Report`] for
//! programs and people; and the reports of several runs become a [`TradeOff`]. Nothing here runs a
//! policy, and nothing needs libtorch.
//!
//! ```
//! use rlaif_core::{Exchange, PromptRecord, Sample, Seed};
//! use rlaif_eval::{
//!     About, Better, CompareOptions, Comparison, Details, Measurement, Metric, MetricInfo, Report,
//!     RewardMetric, Verdict,
//! };
//!
//! // Any reward model is a metric.
//! let rude = |batch: &[Exchange<'_>]| -> Vec<f32> {
//!     batch.iter().map(|x| x.response.matches("fool").count() as f32 / 4.).collect()
//! };
//! let info = MetricInfo::new("rudeness", Better::Lower).threshold(0.5);
//! let metrics: [Box<dyn Metric>; 1] = [Box::new(RewardMetric::new(info, rude))];
//!
//! let answers = |response: &dyn Fn(usize) -> String| -> Vec<Sample> {
//!     (0..50)
//!         .map(|n| Sample {
//!             record: PromptRecord::new(format!("q-{n}"), format!("What is {n} + {n}?")),
//!             response: response(n).into(),
//!         })
//!         .collect()
//! };
//! let seed = Seed::new(42);
//! let before = Measurement::of(&metrics)
//!     .run(About::new("base", seed), answers(&|n| format!("{n}, {}", "fool ".repeat(n % 4))))?;
//! let after = Measurement::of(&metrics)
//!     .run(About::new("tuned", seed), answers(&|n| format!("{n}, {}", "fool ".repeat(n % 3))))?;
//!
//! let comparison = Comparison::of(&before, &after, &CompareOptions::default())?;
//! let row = comparison.row("rudeness")?;
//! assert_eq!(row.delta.verdict, Verdict::Better);
//! assert!(row.delta.improvement_percent.unwrap() > 20.);
//!
//! let report = Report::new("Ruder or kinder?", &before, &after, comparison, Details::default())?;
//! print!("{}", report.to_terminal());
//! # Ok::<(), rlaif_eval::EvalError>(())
//! ```

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod compare;
mod comparison;
mod error;
mod estimate;
mod evaluation;
mod exam;
mod files;
mod journal;
pub mod likelihood;
mod metric;
mod pair;
mod preference;
mod reading;
mod repeats;
mod report;
mod slice;
pub mod stats;
mod table;
pub mod text;
pub mod toxicity;
mod tradeoff;

pub use comparison::{
    CompareOptions, Comparison, ComparisonRow, Delta, Folds, Histogram, Missing, OverOptimisation,
    SampleRow, SetNumber, SideStats, Slice, SliceRow, Verdict,
};
pub use error::EvalError;
pub use estimate::{Estimate, Standing};
pub use evaluation::{About, Column, Evaluation, Measurement, MeasuringProgress};
pub use exam::{
    Agreement, ExamOptions, ExamReport, ExamVerdict, Habits, PositionBias, Section, Share,
    SubsetScore, TiesScore, grade,
};
pub use metric::{Better, Metric, MetricInfo, Reads, RewardMetric, Values};
pub use preference::{
    PreferenceAccuracy, ScoreJudge, WinRate, WinRateOptions, preference_accuracy, win_rate,
};
pub use repeats::{RepeatedMetric, Repeats, RunRow, Spread};
pub use report::{
    Curve, Details, OptimisationPoint, Overview, OverviewPart, PAGE_STYLE, Report, RunCurve,
    ScorerCard, Timing, read_curves, read_findings,
};
pub use rlaif_core::{ExamName, Finding, PairJudge, ShownPair};
pub use slice::SliceBy;
pub use tradeoff::{Aim, Candidate, Role, TradeOff};
