//! Asking until there is an answer, a reason why there is none, or cause to stop altogether.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::config::LimitsConfig;
use super::http::{Headers, Http, Lost, Reply};
use super::pace::{Pace, Stop};
use super::refusal::Whom;

/// What sends requests: connections, pace, patience.
#[derive(Debug)]
pub(super) struct Client {
    http: Http,
    pub(super) pace: Pace,
    limits: LimitsConfig,
}

/// How far one request has come.
#[derive(Debug, Default)]
pub(super) struct Patience {
    retries: u32,
}

impl Client {
    pub(super) fn new(limits: &LimitsConfig) -> Self {
        Self {
            http: Http::new(limits),
            pace: Pace::new(limits.requests_per_minute, limits.tokens_per_minute),
            limits: limits.clone(),
        }
    }

    pub(super) fn post(&self, url: &str, headers: &Headers, body: &[u8]) -> Result<Reply, Lost> {
        self.http.post(url, headers, body)
    }

    /// Waits before a repetition, or says why there is none: no patience left, or the server asks
    /// for more than it is worth.
    ///
    /// Waits 0.5 s · 2ⁿ, at most 30 s, of which a random half; never less than the server asks.
    pub(super) fn wait(
        &self,
        patience: &mut Patience,
        asked: Option<Duration>,
        whom: Whom,
        stop: &Stop,
    ) -> Result<(), String> {
        if patience.retries >= self.limits.retries {
            return Err(format!("after request {}", patience.retries + 1));
        }
        let asked = asked.unwrap_or_default();
        if asked.as_secs_f64() > self.limits.longest_wait_s {
            return Err(format!(
                "it asks for a wait of {} s, more than `limits.longest_wait_s`",
                asked.as_secs()
            ));
        }
        let most = (0.5 * f64::from(1_u32 << patience.retries.min(6))).min(30.);
        let most = most.min(self.limits.longest_wait_s);
        let jittered = Duration::from_secs_f64(most * (0.5 + 0.5 * fastrand::f64()));
        patience.retries += 1;
        let until = Instant::now() + asked.max(jittered);
        if whom == Whom::All && !asked.is_zero() {
            self.pace.pause_until(Instant::now() + asked);
        }
        stop.sleep_until(until);
        Ok(())
    }

    /// Does `work` on 0..jobs, at most `concurrency` at a time, and gives what came of each, in
    /// order; nothing for those that a stop forestalled.
    pub(super) fn each<T: Send>(
        &self,
        jobs: usize,
        stop: &Stop,
        work: impl Fn(usize) -> T + Sync,
    ) -> Vec<Option<T>> {
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut done = Vec::new();
            while !stop.stopped() {
                let job = next.fetch_add(1, Ordering::Relaxed);
                if job >= jobs {
                    break;
                }
                done.push((job, work(job)));
            }
            done
        };
        let mut results: Vec<Option<T>> = (0..jobs).map(|_| None).collect();
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.limits.concurrency.min(jobs)).map(|_| scope.spawn(worker)).collect();
            for thread in workers {
                let done = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                for (job, result) in done {
                    results[job] = Some(result);
                }
            }
        });
        results
    }
}

/// Requests that were refused before any was answered: with enough of them it is not the rows.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    refused: AtomicU64,
    answered: AtomicU64,
}

impl Refusals {
    const TOO_MANY: u64 = 16;

    pub(super) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether this one was the last straw.
    pub(super) fn refused(&self) -> bool {
        let refused = 1 + self.refused.fetch_add(1, Ordering::Relaxed);
        refused >= Self::TOO_MANY && self.answered.load(Ordering::Relaxed) == 0
    }
}
