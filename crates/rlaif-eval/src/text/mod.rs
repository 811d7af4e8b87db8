//! Metrics of the text alone: pure functions, and the same as [`Metric`](crate::Metric)s.

mod diversity;
mod reply;
mod rouge;
mod stem;

pub use diversity::{LengthMetric, LengthUnit, RepetitionMetric, distinct_n, repetition};
pub use reply::{Declined, ReplyKind, ReplyShares, reply};
pub use rouge::{Rouge, RougeKind, RougeScore, Stemming, rouge, rouge_l, rouge_n, tokenise};
