//! Rewards that need no model: length, repetition, format, words, overlap.

mod overlap;
mod text;

pub use overlap::{Against, Overlap, OverlapMeasure};
pub use text::{Format, Length, Repetition, Words};
