//! Errors of PPO.

/// Reasons why a step could not be made.
pub use rlaif_rl::RlError as PpoError;
