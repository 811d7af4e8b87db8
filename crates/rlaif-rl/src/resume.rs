//! Settings that would change the result of a resumed run without an error.

use rlaif_core::Seed;
use rlaif_lm::generate::GenerationConfig;

use crate::error::RlError;

/// Checks that a run continues with the seed and the sampling settings of its checkpoint. The
/// number of rows decoded together may change: it affects only rounding.
///
/// # Errors
/// [`RlError::State`] with both values.
pub fn check_resumed(
    (seed, generation): (Seed, &GenerationConfig),
    (saved_seed, saved): (u64, GenerationConfig),
) -> Result<(), RlError> {
    let differs = |what: &str, expected: String, found: String| {
        Err(RlError::State { what: what.to_owned(), expected, found })
    };
    if saved_seed != seed.get() {
        return differs("seed", seed.get().to_string(), saved_seed.to_string());
    }
    let saved = GenerationConfig {
        batch_size: generation.batch_size,
        check_every: generation.check_every,
        ..saved
    };
    if saved != *generation {
        return differs("generation", format!("{generation:?}"), format!("{saved:?}"));
    }
    Ok(())
}
