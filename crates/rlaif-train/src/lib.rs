//! Training that every algorithm shares.

mod gae;
mod kl;

pub use gae::{Advantages, gae};
pub use kl::{KlControl, KlController, KlEstimator, full_kl};
