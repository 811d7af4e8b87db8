//! A user's wish that long work ends, heard in the middle of it.

use std::{
    error::Error,
    sync::atomic::{AtomicBool, Ordering},
};

/// Set by the process's handler of signals, and by nothing else.
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Work ended because the user asked for it, by Ctrl-C or SIGTERM.
///
/// The mark at the end of an error's chain of sources, by which [`Interrupted::ended`] tells such an
/// end from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Interrupted {
    /// Asks all work of this process to end: for a handler of signals.
    pub fn request() {
        REQUESTED.store(true, Ordering::SeqCst);
    }

    /// Fails once the user has asked for the end: called between the pieces of long work (a token, a
    /// request, a batch), each of a second or so.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn check() -> Result<(), Self> {
        if REQUESTED.load(Ordering::SeqCst) { Err(Self) } else { Ok(()) }
    }

    /// Returns `true` if this error is the stop that the user requested.
    ///
    /// ```
    /// use rlaif_core::{Interrupted, RewardError};
    /// let error = RewardError::Interrupted { model: "judge".to_owned(), source: Interrupted };
    /// assert!(Interrupted::ended(&error));
    /// assert!(!Interrupted::ended(&std::io::Error::other("disk full")));
    /// ```
    pub fn ended(error: &(dyn Error + 'static)) -> bool {
        let mut error = Some(error);
        while let Some(this) = error {
            if this.is::<Self>() {
                return true;
            }
            error = this.source();
        }
        false
    }
}
