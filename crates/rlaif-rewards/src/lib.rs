//! Rewards for reinforcement learning: from a closure of three lines to a rate-limited LLM judge.
//!
//! Everything here is an [`rlaif_core::RewardModel`], takes text and gives one score, or none,
//! per response. They nest:
//!
//! ```
//! use rlaif_core::{Exchange, RewardModel};
//! use rlaif_rewards::{Length, RewardExt, WeightedSum, Words};
//!
//! let reward = WeightedSum::new("taste")
//!     .term(1., Words::forbidden(["darn"])?)
//!     .term(0.5, Length::target(3, 2.)?.clipped(-1., 0.)?);
//! let scores = reward.score(&[Exchange::new("Greet me.", "Hello, my friend!")])?;
//! assert_eq!(scores.total[0].unwrap().get(), 0.);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | what it has |
//! |---|---|
//! | [`combine`] | sums, minimum, scaling, clipping, running normalisation, gate, fallback, cache |
//! | [`rules`] | length, repetition, format, forbidden words, overlap with a reference |
//! | [`verify`] | right answers: mathematics, texts, JSON of a schema, instructions, programs in a sandbox |
//! | [`rubric`] | questions to judges, and the reading of their answers |
//! | `judge` (feature `judge`) | LLM judges over HTTP APIs, reward servers, `judge::run` |
//! | `neural` (feature `neural`) | classifiers, reward models with a scalar head, local policies as judges |
//!
//! [`RewardConfig`] describes any of them in TOML; [`register`] adds those of your own program. Features, both on by default: `judge` brings
//! HTTP, TLS and SQLite; `neural` brings libtorch, which nothing else here needs.

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod build;
pub mod combine;
mod config;
mod demand;
mod error;
mod file;
mod input;
#[cfg(feature = "judge")]
pub mod judge;
mod nearest;
#[cfg(feature = "neural")]
pub mod neural;
mod own;
mod rows;
pub mod rubric;
pub mod rules;
mod sync;
pub mod verify;

pub use build::Surroundings;
pub use combine::{
    Cached, Clipped, ClippedTo, Combined, CombinedScore, Constant, Gated, LowerBound, LowestScore,
    Mapped, Mean, MeanLessDeviations, MeanOfScores, Minimum, Normalised, OfOneOrMore, OrElse,
    ProcessReward, RewardExt, Scaled, ScaledBy, ScoreMap, StepTotal, StepView, SumOfTerms,
    WeightedSum,
};
pub use config::{RewardConfig, Term};
pub use demand::ExamDemand;
pub use error::ProviderError;
pub use file::{describe_toml, describe_toml_value, read_toml, wrong_key};
pub use input::RewardInput;
#[cfg(feature = "neural")]
pub use neural::{
    ClassifierConfig, ClassifierOptions, ClassifierReward, Input, LabelChoice, Output, PolicyJudge,
    Preset, closing_tokens, encode_judged,
};
pub use own::register;
pub use rows::{
    Counted, ReadRows, RowVerdict, read_rows, score_each_row, score_in_order, score_rows,
};
pub use rules::{Format, Length, Overlap, OverlapMeasure, Repetition, Words};

/// The page of documentation, whose code is to run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/rewards.md")]
pub struct Documentation;
