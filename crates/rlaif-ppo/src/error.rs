//! What can go wrong in PPO.

/// Why a step could not be made.
pub use rlaif_rl::RlError as PpoError;
