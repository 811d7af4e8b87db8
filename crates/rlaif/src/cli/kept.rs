//! Commands that keep their results as they come, so that the same command continues.

use std::error::Error;

use rlaif_core::{Interrupted, say};
use rlaif_run::RunError;
use rlaif_train::Interrupt;

use super::error::CliError;

/// Does work that keeps its results, named `results`, as they come. After Ctrl-C it tells how to
/// continue; without a name nothing is kept, and nothing is told.
pub(crate) fn keeping<T, E: Error + 'static>(
    results: Option<&str>,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, CliError>
where
    CliError: From<E>,
{
    Interrupt::install().map_err(RunError::from)?;
    let done = work().inspect_err(|error| {
        if let Some(results) = results
            && Interrupted::ended(error)
        {
            say(format_args!(
                "the {results} so far are kept; run the same command again to continue"
            ));
        }
    })?;
    Ok(done)
}
