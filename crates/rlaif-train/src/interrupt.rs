//! Ctrl-C.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rlaif_core::{Interrupted, say};
use rlaif_torch::dist::World;

use crate::error::TrainError;

/// The process's own interrupt: a handler can be set only once.
static PROCESS: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Time in which a launcher repeats a signal.
const ECHO: Duration = Duration::from_secs(5);

/// A request to stop the run: it then finishes its step, writes a checkpoint and ends.
///
/// ```
/// let interrupt = rlaif_train::Interrupt::manual();
/// assert!(!interrupt.requested());
/// interrupt.request();
/// assert!(interrupt.requested());
/// ```
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens to Ctrl-C (SIGINT) and SIGTERM. The first signal asks the run to stop after its
    /// step. During generation, judging and evaluation, which teach the policy nothing yet, the run
    /// stops at the next [`Interrupted::check`]. The second signal ends the process at once, as
    /// without a handler.
    ///
    /// # Errors
    /// [`TrainError::Write`] if the system refuses the handler.
    pub fn install() -> Result<Self, TrainError> {
        Self::install_in(&World::default())
    }

    /// As [`Interrupt::install`], in one of several ranks. All of them stop after the same step, never within one.
    /// Signals that follow the first within seconds are ignored: a launcher passes on those of the terminal, which
    /// has sent them to the ranks too.
    ///
    /// # Errors
    /// As [`Interrupt::install`].
    pub fn install_in(world: &World) -> Result<Self, TrainError> {
        if let Some(flag) = PROCESS.get() {
            return Ok(Self(flag.clone()));
        }
        let flag = PROCESS.get_or_init(Arc::default).clone();
        let seen = flag.clone();
        let (alone, tells) = (world.is_alone(), world.is_first());
        let mut first: Option<Instant> = None;
        let handler = move || {
            if seen.swap(true, Ordering::SeqCst) {
                let echo = first.is_some_and(|first| first.elapsed() < ECHO);
                if alone || !echo {
                    rlaif_torch::exit_at_once(130);
                }
                return;
            }
            first = Some(Instant::now());
            if alone {
                Interrupted::request();
            }
            if tells {
                say("\nstopping as soon as everything is saved; once more to stop at once");
            }
        };
        ctrlc::set_handler(handler).map_err(|source| TrainError::Write {
            path: "signal handler".into(),
            source: std::io::Error::other(source),
        })?;
        Ok(Self(flag))
    }

    /// An interrupt that only [`Interrupt::request`] sets.
    #[must_use]
    pub fn manual() -> Self {
        Self(Arc::default())
    }

    /// Asks the run to stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// `true` once a stop was requested.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
