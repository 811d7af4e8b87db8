//! Responses that wait for a place in the batch.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use rlaif_core::{ResponderError, ResponseEvent, ResponseReport};
use rlaif_lm::generate::JoiningRow;

/// Most responses that wait for a place.
const MOST_WAITING: usize = 1024;

/// The receiver of a request's tokens, shared by its responses.
pub(super) struct Order(Mutex<Option<ResponseReport>>);

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Order").finish_non_exhaustive()
    }
}

impl Order {
    pub(super) fn new(report: ResponseReport) -> Self {
        Self(Mutex::new(Some(report)))
    }

    fn report_of(&self) -> MutexGuard<'_, Option<ResponseReport>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports an event, unless the receiver has gone.
    pub(super) fn report(&self, event: ResponseEvent) {
        let mut report = self.report_of();
        let last = matches!(event, ResponseEvent::Failed(_));
        if report.as_mut().is_some_and(|report| report(event).is_break()) || last {
            *report = None;
        }
    }

    /// `true` if nothing is reported any more.
    pub(super) fn is_over(&self) -> bool {
        self.report_of().is_none()
    }
}

/// A response that waits for a place.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) order: Arc<Order>,
    /// Number of the response in its request.
    pub(super) response: usize,
    pub(super) row: JoiningRow,
    /// `true` if the texts of tokens are reported.
    pub(super) shows: bool,
}

/// Responses that wait for a place, first come, first served.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// The reason why the queue is closed.
    closed: Option<String>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds all responses of a request, or none.
    pub(super) fn put(&self, rows: Vec<Waiting>) -> Result<(), ResponderError> {
        let mut state = self.state();
        if let Some(reason) = &state.closed {
            return Err(ResponderError::Ended { reason: reason.clone() });
        }
        if state.waiting.len() + rows.len() > MOST_WAITING {
            let waiting = state.waiting.len();
            return Err(ResponderError::Busy { waiting, most: MOST_WAITING });
        }
        state.waiting.extend(rows);
        self.changed.notify_one();
        Ok(())
    }

    /// The next responses, at most `most`; `None` after the queue was closed. Waits for one if `waits`.
    pub(super) fn take(&self, most: usize, waits: bool) -> Option<Vec<Waiting>> {
        let mut state = self.state();
        loop {
            if state.closed.is_some() {
                return None;
            }
            if !state.waiting.is_empty() || !waits {
                let count = most.min(state.waiting.len());
                return Some(state.waiting.drain(..count).collect());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the queue, and all responses in it.
    pub(super) fn close(&self, reason: &str) {
        let mut state = self.state();
        state.closed.get_or_insert_with(|| reason.to_owned());
        for row in state.waiting.drain(..) {
            row.order.report(ResponseEvent::Failed(reason.to_owned()));
        }
        self.changed.notify_all();
    }
}
